"""Write a row as bytes, and compare rows by digests of 16 bytes each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adapterzoo.data_row import DataRow, Turn

if TYPE_CHECKING:
    import numpy

DIGEST_BYTES = 16
NUMPY_DIGEST = f"S{DIGEST_BYTES}"


def content(row: DataRow) -> bytes:
    """Return what a row is but its place and its group; equal rows have the same content."""
    parts = [row.raw, *row.turns, *([row.more] if row.more else [])]
    return json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")


def row_of(written: bytes, place: str, group: bytes | None) -> DataRow:
    """Return the row with a content, a place and a group."""
    raw, *parts = json.loads(written.decode("utf-8", "surrogatepass"))
    # The last part may be the pairs of DataRow.more: the first of them is a list, and the first of a turn a text.
    more = _tuples(parts.pop()) if parts and isinstance(parts[-1][0], list) else ()
    name = None if group is None else group.decode("utf-8", "surrogatepass")
    return DataRow(tuple(Turn(*turn) for turn in parts), raw, place, name, more)


def _tuples(value: Any) -> Any:
    """Return a value with tuples for lists, because all values of a row can be hashed."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def text_bytes(text: str) -> bytes:
    """Return a text as bytes, also one with halves of surrogate pairs."""
    return text.encode("utf-8", "surrogatepass")


def text_digest(text: str) -> bytes:
    """Return the digest of a text."""
    return digest(text_bytes(text))


def digest(value: bytes) -> bytes:
    """Return the digest of a value, DIGEST_BYTES long."""
    return hashlib.blake2b(value, digest_size=DIGEST_BYTES).digest()


def digests(values: Iterable[bytes], count: int) -> numpy.ndarray:
    """Return the digests of so many values."""
    import numpy

    return numpy.fromiter(map(digest, values), NUMPY_DIGEST, count)


def sorted_positions(keys: bytes | bytearray) -> numpy.ndarray:
    """Return the positions of digests of DIGEST_BYTES, which follow each other in one text, in ascending order."""
    import numpy

    return numpy.frombuffer(keys, NUMPY_DIGEST).argsort(kind="stable")


def is_in(digests: numpy.ndarray, others: numpy.ndarray) -> numpy.ndarray:
    """Return for each digest whether it is among the others; this takes less memory than ``numpy.isin``."""
    import numpy

    if not len(others):
        return numpy.zeros(len(digests), bool)
    ordered = numpy.sort(others)
    found = ordered[ordered.searchsorted(digests).clip(max=len(ordered) - 1)]
    equal: numpy.ndarray = found == digests
    return equal
