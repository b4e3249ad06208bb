"""Reads the rows that a recipe asks for: filtered, shaped, shuffled, the first N; and counts what was left out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from adapterzoo.data.shape import Shaper
from adapterzoo.data.sources import Source, open_source
from adapterzoo.errors import Problem, UserError
from adapterzoo.formats.cell_text import text_of
from adapterzoo.recipe.files import DELIMITERS
from adapterzoo.recipe.schema import DataSection
from adapterzoo.row import BadRowError, EmptyRowError, Row

# Of each kind of problem; the rest are counted.
SHOWN = 5
Say = Callable[[str], None]


def _nothing(message: str) -> None:
    pass


@dataclass
class Counts:
    """How many rows were read, and why some are not among the examples."""

    read: int = 0
    filtered: int = 0
    empty: dict[str, list[str]] = field(default_factory=dict)
    """column -> where"""
    bad: list[Problem] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    """where a conversation's last question was left out"""
    values: dict[str, set[str]] = field(default_factory=dict)
    """of the filtered columns, those that were seen"""


def read_rows(
    data: DataSection, names: Sequence[str], split: str | None = None, say: Say = _nothing
) -> tuple[list[Row], str]:
    """The examples in a source, and their format; what was left out, and what was recognised, is said.

    Args:
        names: files, a saved folder or a hub id.
        split: of a saved dataset or a hub id.

    Raises:
        UserError: the source cannot be read, no row is usable, or rows are not of their format.
    """
    source = open_source(names, data, split)
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    head = f"{where}:1" if where.endswith(tuple(DELIMITERS)) else where  # where the columns are named
    shaper = Shaper(data, source.columns, head, say)
    counts = Counts()
    rows = _select(_shaped(source, data, shaper, counts), data)
    if counts.bad and data.bad_rows == "error":
        shown = counts.bad[:SHOWN]
        if more := len(counts.bad) - len(shown):
            what = f"{more} more rows are not usable either."
            shown.append(Problem(where, what, "data.bad_rows: drop leaves all such rows out."))
        raise UserError(*shown)
    if not rows:
        raise UserError(_no_rows(where, data, counts))
    _say(counts, rows, say)
    return rows, shaper.name


def _shaped(source: Source, data: DataSection, shaper: Shaper, counts: Counts) -> Iterator[Row]:
    """The usable rows, one after the other."""
    for place, cells in source.rows:
        counts.read += 1
        if not _wanted(cells, data.filter, counts):
            counts.filtered += 1
            continue
        try:
            row = shaper.row(place, cells)
        except EmptyRowError as empty:
            counts.empty.setdefault(empty.column, []).append(place)
            continue
        except BadRowError as bad:
            counts.bad.append(Problem(place, bad.what, bad.hint))
            continue
        if shaper.unanswered(cells, row):
            counts.unanswered.append(place)
        yield row


def _wanted(cells: Mapping[str, Any], conditions: Mapping[str, Any], counts: Counts) -> bool:
    """Whether a row has one of the values that its columns are filtered by; compared as text."""
    for column, wanted in conditions.items():
        try:
            value = text_of(cells.get(column), column).strip()
        except BadRowError:
            return False
        seen = counts.values.setdefault(column, set())
        if len(seen) < SHOWN:
            seen.add(value)
        choices = wanted if isinstance(wanted, list) else [wanted]
        # YAML's true is True in a CSV that Python wrote.
        if not any(value == text_of(one, column) or value.lower() == str(one).lower() != value for one in choices):
            return False
    return True


def _select(rows: Iterator[Row], data: DataSection) -> list[Row]:
    """Shuffled, and the first N. With a limit, no more than that many are ever held."""
    if data.shuffle is None:
        return list(islice(rows, data.limit))
    keyed = ((_key(data.shuffle, number), number, row) for number, row in enumerate(rows))
    # A number of its own for each row, from the seed: the same order on any machine, with any library.
    chosen = heapq.nsmallest(data.limit, keyed) if data.limit is not None else sorted(keyed)
    return [row for _, _, row in chosen]


def _key(seed: int, number: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{number}".encode()).digest()


def _no_rows(where: str, data: DataSection, counts: Counts) -> Problem:
    if not counts.read:
        return Problem(where, "has column names but no rows.")
    if counts.filtered == counts.read:
        seen = "; ".join(
            f"{column}: {', '.join(map(repr, sorted(values)))}" for column, values in counts.values.items()
        )
        return Problem("data.filter", f"leaves none of {counts.read} rows.", f"Values that were seen: {seen}.")
    columns = " or ".join(f"'{column}'" for column in counts.empty) or "no usable text"
    left = counts.read - counts.filtered
    return Problem(where, f"all {left} rows have an empty {columns}.")


def _say(counts: Counts, rows: Sequence[Row], say: Say) -> None:
    if counts.filtered:
        say(f"data: {counts.filtered} of {counts.read} rows left out by data.filter")
    for column, places in counts.empty.items():
        say(f"data: {len(places)} of {counts.read} rows dropped: '{column}' is empty (first: {places[0]})")
    if counts.bad:
        first = counts.bad[0]
        say(f"data: {len(counts.bad)} of {counts.read} rows dropped as unusable (first: {first.where}: {first.what})")
    if counts.unanswered:
        where = counts.unanswered[0]
        say(f"data: {len(counts.unanswered)} conversations end with a question, which is left out (first: {where})")
    if repeated := len(rows) - len(set(rows)):
        say(f"data: {repeated} of {len(rows)} rows repeat another one")
