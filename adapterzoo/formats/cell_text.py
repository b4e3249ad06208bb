"""What stands in one cell of a row, as text."""

from __future__ import annotations

import datetime
import decimal
import math
import re
from typing import Any

from adapterzoo.row import BadRowError

_SURROGATE = re.compile("[\ud800-\udfff]")


class Number(str):
    """A number exactly as it is written in a JSON file: 1.50 is not 1.5 to a model."""


def text_of(value: Any, column: str) -> str:
    """A cell's text; nothing, None and NaN are the empty one.

    Raises:
        BadRowError: it is a list or the like.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            raise BadRowError(
                f"'{column}' holds half a character (a lone surrogate).", "It was cut apart when it was written."
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
        f"'{column}' is {kind}, not text.", f"Write it as text, or map data.columns to another than '{column}'."
    )


def kind_of(value: Any) -> str | None:
    """``text``, ``a number``, ...: what should be the same in all rows of a column; None for an empty cell."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (Number, int, float, decimal.Decimal)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"
