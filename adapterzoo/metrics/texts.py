"""Compare texts as people read them."""

from __future__ import annotations

import unicodedata


def same_text(first: str, second: str) -> bool:
    """Tell whether two texts are the same, except for white space and their Unicode form."""
    return _normalised(first) == _normalised(second)


def _normalised(text: str) -> str:
    """Return a text in NFC, without white space at its ends, and with one space for each run of it elsewhere."""
    return " ".join(unicodedata.normalize("NFC", text).split())
