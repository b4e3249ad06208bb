"""Read JSON and JSON Lines files row by row, each row with its place.

They are read with the standard library, because the JSON reader of ``datasets`` turns ``"2020-01-01"`` into a timestamp
that is written ``2020-01-01 00:00:00``, and because ``datasets`` does not know the line of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from adapterzoo.data.json_window import JsonWindow, reading
from adapterzoo.data.text_files import PlacedCells, decoded_lines, not_utf8, open_text, short_lines
from adapterzoo.errors import UserError
from adapterzoo.terminal import size

MAX_BYTES_AT_ONCE = 2**26  # a longer list is read row by row
MAX_DOCUMENT_BYTES = 2**30  # of a document that is not a list; it takes ten times as much memory


def read_json(path: Path) -> tuple[list[str], Iterator[PlacedCells]]:
    """Return the columns and rows of a file with a list of objects, one object per line, or a table from pandas.

    A file with one object per line, or a long list of objects, is read row by row, so it may be larger than the memory.
    Others are read whole.

    Raises:
        UserError: the file holds no rows or cannot be parsed; also raised while rows are read.
    """
    if _is_json_lines(path):
        return _columns(_lines(path)), _lines(path)
    if path.stat().st_size > MAX_BYTES_AT_ONCE and _first_character(path) == "[":
        return _columns(_items(path)), _items(path)
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        what = f"has {size(path.stat().st_size)} that would be read at once; at most {size(MAX_DOCUMENT_BYTES)} are."
        raise UserError.at(str(path), what, "Write each row as an object on a line of its own (JSON lines), or a list.")
    with open_text(path) as file:
        try:
            loaded = _load(_decoded(file, path), str(path))
        except json.JSONDecodeError as error:
            raise UserError.at(f"{path}:{error.lineno}", f"is not JSON: {error.msg}.") from None
    objects = _objects(loaded)
    if objects is None:
        raise _no_list(path)
    rows = [(f"{path}, row {number}", cells) for number, cells in enumerate(objects, start=1)]
    return _columns(rows), iter(rows)


def _is_json_lines(path: Path) -> bool:
    """Tell whether each line is a row.

    It is if the file's name says so, or if the first line is an object that is not a whole table or has lines below it.
    """
    with open_text(path) as file:
        named_so = path.suffix in (".jsonl", ".ndjson")
        lines = short_lines(file, path) if named_so else _first_lines(file, path)
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            raise UserError.at(str(path), "is empty.")
        if named_so:
            return True
        try:
            value = _load(first, f"{path}:1")
        except json.JSONDecodeError:
            return False
        return isinstance(value, dict) and (_objects(value) is None or any(line.strip() for line in lines))


def _first_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines of a file, or a part of the first line if it is too long for a row."""
    try:
        while line := file.readline(MAX_BYTES_AT_ONCE):
            yield line
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


def _first_character(path: Path) -> str:
    with open_text(path) as file:
        return next((line.strip()[0] for line in _first_lines(file, path) if line.strip()), "")


def _items(path: Path) -> Iterator[PlacedCells]:
    """Yield the objects of a list, of which only some are in memory at the same time.

    Raises:
        UserError: the file cannot be parsed.
    """
    with open_text(path) as file:
        text = JsonWindow(file, path)
        text.take("[")
        for number in count(1):
            value = text.value(f"{path}, row {number}")
            if not isinstance(value, dict):
                raise _no_list(path)
            yield f"{path}, row {number}", value
            if text.take(",]") == "]":
                break
        text.end()


def _lines(path: Path) -> Iterator[PlacedCells]:
    with open_text(path) as file:
        for number, line in enumerate(short_lines(file, path), start=1):
            if not line.strip():
                continue
            try:
                value = _load(line, f"{path}:{number}")
            except json.JSONDecodeError as error:
                what = f"is not JSON: {error.msg} (column {error.colno})."
                raise UserError.at(f"{path}:{number}", what, "Each line must be one whole object.") from None
            if not isinstance(value, dict):
                raise UserError.at(f"{path}:{number}", "is not an object with a key for each column.")
            yield f"{path}:{number}", value


def _objects(loaded: Any) -> list[dict[str, Any]] | None:
    """Return the rows of a JSON document, one object each; None if it is not a known form of a table."""
    if isinstance(loaded, list):
        return loaded if loaded and all(isinstance(item, dict) for item in loaded) else None
    if not isinstance(loaded, dict) or not loaded:
        return None
    if isinstance(loaded.get("columns"), list) and isinstance(loaded.get("data"), list):  # pandas, orient="split"
        names = [str(name) for name in loaded["columns"]]
        return [dict(zip(names, cells, strict=False)) for cells in loaded["data"] if isinstance(cells, list)] or None
    if "schema" in loaded and isinstance(loaded.get("data"), list):  # pandas, orient="table"
        return _objects(loaded["data"])
    values = list(loaded.values())
    if len(values) == 1 and isinstance(values[0], list):
        return _objects(values[0])  # {"data": [...]}
    if all(isinstance(value, dict) for value in values) and len({tuple(value) for value in values}) == 1:
        if all(key.isdigit() for key in loaded):  # pandas, orient="index"
            return values
        # The default of pandas' to_json: each column is a mapping from the index to the cell.
        return [{name: column[key] for name, column in loaded.items()} for key in values[0]]
    return None


def _columns(rows: Iterable[PlacedCells]) -> list[str]:
    """Return the columns of the first row that has any."""
    return next((list(cells) for _, cells in rows if cells), [])


def _no_list(path: Path) -> UserError:
    what = "holds no list of objects with a key for each column."
    return UserError.at(str(path), what, 'Like [{"question": "...", "answer": "..."}, ...].')


def _load(text: str, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        UserError: an object has one key twice, with different values.
    """
    try:
        return json.loads(text, **reading(where))
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", text, 0) from None


def _decoded(file: TextIO, path: Path) -> str:
    return "".join(decoded_lines(file, path))
