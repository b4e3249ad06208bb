"""The text of one cell of a row."""

from __future__ import annotations

import ast
import datetime
import decimal
import json
import math
import re
from typing import Any

from adapterzoo.data_row import BadRowError

_SURROGATE = re.compile("[\ud800-\udfff]")


class Number(str):
    """A number as it is written in a JSON file, because a model reads 1.50 and 1.5 as different texts."""


def size_of(cell: Any) -> int:
    """Return the number of characters of a cell; in a list or a mapping, those of all texts, and one for each item."""
    if isinstance(cell, str):
        return len(cell)
    if isinstance(cell, dict):
        return sum(size_of(part) for pair in cell.items() for part in pair) + len(cell)
    return sum(map(size_of, cell)) + len(cell) if isinstance(cell, (list, tuple)) else 1


def text_of(value: Any, column: str) -> str:
    """Return a cell as text; None and NaN become the empty text.

    Raises:
        BadRowError: the cell holds a list, a mapping or half a character.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            raise BadRowError(
                f"'{column}' holds half a character (a lone surrogate).",
                "The character was cut in two when the file was written: write it again.",
            )
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (int, float, decimal.Decimal)):
        return str(value)
    kind = "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"
    raise BadRowError(
        f"'{column}' is {kind}, not text.", f"Write it as text, or map another column than '{column}' in data.columns."
    )


def list_of(value: Any) -> list[Any] | None:
    """Return a cell that holds a list, also one that is written as text, as in a CSV file; None for any other cell."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str) or not (value.strip().startswith("[") and value.strip().endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):  # as JSON or as Python writes it
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and not any(isinstance(item, list | dict) for item in found):
            return found
    return None


def kind_of(value: Any) -> str | None:
    """Return the kind of a cell, such as ``text`` or ``a number``; None for an empty cell.

    All cells of one column should be of one kind.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (Number, int, float, decimal.Decimal)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"
