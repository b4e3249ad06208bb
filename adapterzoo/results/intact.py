"""Tell whether the files of a finished cell are what the run wrote; read its files of records."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from adapterzoo.digests import file_digests, records_digest
from adapterzoo.files import require_ordinary, stays_inside
from adapterzoo.results.result import Result
from adapterzoo.results.store import ADAPTER

MAX_BYTES = 2**32  # a larger file counts as damaged
MAX_LINE = 2**24  # in characters; a longer line counts as damaged


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines in the order of their ``index``; none if it is damaged or missing.

    Rows are compared example by example, so the order of the lines in their files must not matter.
    """
    try:
        require_ordinary(path, MAX_BYTES)
        with path.open(encoding="utf-8") as file:
            lines = iter(partial(file.readline, MAX_LINE), "")
            records = sorted((json.loads(line) for line in lines), key=lambda record: int(record["index"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []
    return records if len({record["index"] for record in records}) == len(records) else []


def changed_records(cell: Path, result: Result) -> list[str]:
    """Return the files of records in a cell's folder that are not what the run wrote: changed or missing."""
    digests = result.record_digests.items()
    return [name for name, digest in digests if records_digest(read_lines(cell / name)) != digest]


def changed_files(cell: Path, result: Result) -> list[str]:
    """Return the adapter files of a cell that are not what the run wrote: changed or missing.

    If the whole adapter was removed, perhaps to save space, no file is returned.

    Args:
        cell: the cell's folder.
        result: the cell's result, with the digests of the files.
    """
    folder = cell / ADAPTER
    if not os.path.lexists(folder):
        return []
    try:
        names = [name for name in result.adapter_files if stays_inside(name)]
        digests = file_digests(folder / name for name in names if (folder / name).is_file())
    except OSError:  # files that cannot be read count as missing
        digests = {}
    written = result.adapter_files.items()
    return [f"{ADAPTER}/{name}" for name, digest in written if digests.get(folder / name) != digest]
