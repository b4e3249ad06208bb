"""CSV, TSV, JSON and JSON Lines, row by row, each row with its file and line.

Read with the standard library and not with ``datasets``, whose JSON reader makes ``"2020-01-01"`` a timestamp that
reads ``2020-01-01 00:00:00``, and which can say of no row where it stands.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from adapterzoo.errors import UserError
from adapterzoo.formats.cell_text import Number

Found = tuple[str, dict[str, Any]]
"""where a row stands, and its cells by column"""
BLOCK = 2**16
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


def read_csv(path: Path, delimiter: str) -> tuple[list[str], Iterator[Found]]:
    """The columns of a file with a line of their names, and its rows; all cells are text.

    Raises:
        UserError: it has no such line, or cannot be parsed; also while rows are taken.
    """
    with _text(path) as file:
        header = next(_parsed(csv.reader(file, delimiter=delimiter, strict=True), path), [])
    if not header:
        raise UserError.at(str(path), "does not begin with a line of column names: it is empty, or its first line is.")
    twice = sorted(column for column, times in Counter(header).items() if times > 1)
    if twice:
        raise UserError.at(f"{path}:1", f"there are two columns '{twice[0]}'.", "Rename one of them.")
    other = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
    if other:
        sign = "\\t" if other == "\t" else other
        raise UserError.at(
            f"{path}:1",
            f"its columns seem to be separated by {other!r}, not by {delimiter!r}.",
            f'Set data.delimiter: "{sign}".',
        )

    def rows() -> Iterator[Found]:
        with _text(path) as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            begins = 1
            for cells in _parsed(reader, path):
                place, begins = f"{path}:{begins}", reader.line_num + 1
                if place == f"{path}:1" or not cells:
                    continue
                if len(cells) > len(header):
                    what = f"this row has {len(cells)} cells, the line of column names {len(header)}."
                    raise UserError.at(place, what, "Put text with a comma in it in quotes.")
                yield place, dict(zip(header, cells, strict=False))

    return header, rows()


def read_json(path: Path) -> tuple[list[str], Iterator[Found]]:
    """The columns and rows of a file that holds a list of objects, one object a line, or a table of pandas'.

    A file with one object a line is read line by line, whatever its size; any other is read whole.

    Raises:
        UserError: it is none of these, or cannot be parsed; also while rows are taken.
    """
    if _has_lines(path):
        return _columns(_lines(path)), _lines(path)
    with _text(path) as file:
        try:
            loaded = _load(_decoded(file, path), str(path))
        except json.JSONDecodeError as error:
            raise UserError.at(f"{path}:{error.lineno}", f"is not JSON: {error.msg}.") from None
    items = _table(loaded)
    if items is None:
        what = "holds no list of objects with a key for each column."
        raise UserError.at(str(path), what, 'Like [{"question": "...", "answer": "..."}, ...].')
    found = [(f"{path}, row {number}", item) for number, item in enumerate(items, start=1)]
    return _columns(found), iter(found)


def _has_lines(path: Path) -> bool:
    """Whether each line is a row of its own: by the name, or since the first line is an object and not all there is."""
    with _text(path) as file:
        text = _decoded_lines(file, path)
        first = next((line for line in text if line.strip()), None)
        if first is None:
            raise UserError.at(str(path), "is empty.")
        if path.suffix in (".jsonl", ".ndjson"):
            return True
        try:
            value = _load(first, f"{path}:1")
        except json.JSONDecodeError:
            return False
        return isinstance(value, dict) and (_table(value) is None or any(line.strip() for line in text))


def _lines(path: Path) -> Iterator[Found]:
    with _text(path) as file:
        for number, line in enumerate(_decoded_lines(file, path), start=1):
            if not line.strip():
                continue
            try:
                value = _load(line, f"{path}:{number}")
            except json.JSONDecodeError as error:
                what = f"is not JSON: {error.msg} (column {error.colno})."
                raise UserError.at(f"{path}:{number}", what, "Each line must be one whole object.") from None
            if not isinstance(value, dict):
                raise UserError.at(f"{path}:{number}", "is no object with a key for each column.")
            yield f"{path}:{number}", value


def _table(loaded: Any) -> list[dict[str, Any]] | None:
    """The rows of a JSON document, if it is one of the shapes that tables are written in."""
    if isinstance(loaded, list):
        return loaded if loaded and all(isinstance(item, dict) for item in loaded) else None
    if not isinstance(loaded, dict) or not loaded:
        return None
    if isinstance(loaded.get("columns"), list) and isinstance(loaded.get("data"), list):  # pandas, orient="split"
        names = [str(name) for name in loaded["columns"]]
        return [dict(zip(names, cells, strict=False)) for cells in loaded["data"] if isinstance(cells, list)] or None
    if "schema" in loaded and isinstance(loaded.get("data"), list):  # orient="table"
        return _table(loaded["data"])
    values = list(loaded.values())
    if len(values) == 1 and isinstance(values[0], list):
        return _table(values[0])  # {"data": [...]}
    if all(isinstance(value, dict) for value in values) and len({tuple(value) for value in values}) == 1:
        if all(key.isdigit() for key in loaded):  # orient="index"
            return values
        # pandas' to_json as it is: each column a mapping from the index.
        return [{name: column[key] for name, column in loaded.items()} for key in values[0]]
    return None


def _columns(rows: Iterable[Found]) -> list[str]:
    """Of the first row that has any: later ones are checked as they come."""
    return next((list(cells) for _, cells in rows if cells), [])


def _load(text: str, where: str) -> Any:
    """Return what a text in JSON holds.

    Raises:
        json.JSONDecodeError: it is no JSON.
        UserError: an object has a key twice.
    """

    def cells(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            # The same value twice is no question of which is meant.
            for key, value in pairs:
                if value != found[key]:
                    what = f"the key '{key}' is given twice, with different values."
                    raise UserError.at(where, what, "Keep one of them.")
        return found

    try:
        return json.loads(text, parse_float=Number, parse_int=Number, object_pairs_hook=cells)
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", text, 0) from None


def _text(path: Path) -> TextIO:
    try:
        with path.open("rb") as file:
            if b"\0" in file.read(BLOCK):
                raise UserError.at(str(path), "is no text in UTF-8: it holds zero bytes.", "Save it as UTF-8.")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UserError.at(str(path), f"cannot be read: {error.strerror or error}.") from None


def _decoded(file: TextIO, path: Path) -> str:
    return "".join(_decoded_lines(file, path))


def _decoded_lines(file: TextIO, path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _parsed(reader: Any, path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except csv.Error as error:
        raise UserError.at(f"{path}:{reader.line_num}", f"cannot be read as CSV: {error}.") from None


def _not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """With the line, which the decoder does not know: it reads in blocks."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as found:
                error = found
                return UserError.at(f"{path}:{number}", f"is not UTF-8: {error.reason}.", "Save it as UTF-8.")
    return UserError.at(str(path), f"is not UTF-8: {error.reason}.", "Save it as UTF-8.")
