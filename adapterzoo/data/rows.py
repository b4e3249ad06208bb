"""Read the rows that a recipe asks for, turn them into examples, and count the rows that are left out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from adapterzoo.data.shape import Shaper
from adapterzoo.data.sources import RowSource, open_source
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError
from adapterzoo.errors import Problem, UserError
from adapterzoo.formats import FORMATS, Format
from adapterzoo.formats.cell_text import text_of
from adapterzoo.recipe.files import DELIMITERS
from adapterzoo.recipe.schema import DataSection

MAX_PROBLEMS_SHOWN = 5  # further unusable rows are only counted
MAX_VALUES_SHOWN = 5  # number of values of a filtered column that are shown if no row is left
Say = Callable[[str], None]


def _say_nothing(message: str) -> None:
    pass


@dataclass
class Counts:
    """The number of rows that were read, and the rows that are left out, with their reasons."""

    read: int = 0
    """number of rows that were read"""
    filtered: int = 0
    """number of rows that ``data.filter`` left out"""
    empty: dict[str, list[str]] = field(default_factory=dict)
    """column -> places of the rows whose cell is empty there"""
    bad: list[Problem] = field(default_factory=list)
    """rows that do not fit the format"""
    unanswered: list[str] = field(default_factory=list)
    """places of the conversations whose last question has no answer"""
    values: dict[str, set[str]] = field(default_factory=dict)
    """filtered column -> some of its values"""


def read_rows(
    data: DataSection,
    names: Sequence[str],
    split: str | None = None,
    say: Say = _say_nothing,
    formats: Mapping[str, Format] = FORMATS,
) -> tuple[list[DataRow], str]:
    """Return the examples in a source and the name of their format.

    Args:
        data: the recipe's data section.
        names: files, the folder of a saved dataset, or a hub id.
        split: name of a split of a saved dataset or a hub id.
        say: called with messages on the rows that are left out, and on the format that was recognised.
        formats: the formats that the rows may have.

    Raises:
        UserError: the source cannot be read, no row is usable, or some rows do not fit the format.
    """
    source = open_source(names, data, split)
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    header = f"{where}:1" if where.endswith(tuple(DELIMITERS)) else where
    shaper = Shaper(data, source.columns, header, say, formats)
    counts = Counts()
    rows = _select(_shaped(source, data, shaper, counts), data)
    if counts.bad and data.bad_rows == "error":
        shown = counts.bad[:MAX_PROBLEMS_SHOWN]
        if more := len(counts.bad) - len(shown):
            what = f"{more} more rows are not usable either."
            shown.append(Problem(where, what, "data.bad_rows: drop leaves all such rows out."))
        raise UserError(*shown)
    if not rows:
        raise UserError(_no_rows(where, data, counts))
    _say_counts(counts, rows, say)
    return rows, shaper.name


def _shaped(source: RowSource, data: DataSection, shaper: Shaper, counts: Counts) -> Iterator[DataRow]:
    """Yield the usable rows, and count the others."""
    for place, cells in source.rows:
        counts.read += 1
        if not _passes_filter(cells, data.filter, counts):
            counts.filtered += 1
            continue
        try:
            row = shaper.row(place, cells)
        except EmptyRowError as empty:
            counts.empty.setdefault(str(empty), []).append(place)
            continue
        except BadRowError as bad:
            counts.bad.append(Problem(place, bad.what, bad.hint))
            continue
        if shaper.unanswered(cells, row):
            counts.unanswered.append(place)
        yield row


def _passes_filter(cells: Mapping[str, Any], conditions: Mapping[str, Any], counts: Counts) -> bool:
    """Tell whether a row has one of the wanted values in every filtered column, compared as text without case."""
    for column, wanted in conditions.items():
        try:
            value = text_of(cells.get(column), column).strip()
        except BadRowError:
            return False
        seen = counts.values.setdefault(column, set())
        if len(seen) < MAX_VALUES_SHOWN:
            seen.add(value)
        choices = wanted if isinstance(wanted, list) else [wanted]
        # Ignore case, because true in YAML is written True in a CSV by Python.
        if not any(value.lower() == text_of(choice, column).lower() for choice in choices):
            return False
    return True


def _select(rows: Iterator[DataRow], data: DataSection) -> list[DataRow]:
    """Return the rows, shuffled and cut to the limit. With a limit, no more rows than that are held in memory."""
    if data.shuffle is None:
        return list(islice(rows, data.limit))
    # Sort by a hash of seed and row number, so that the order is the same on any machine and with any library.
    keyed = ((_key(data.shuffle, number), number, row) for number, row in enumerate(rows))
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
    kept = counts.read - counts.filtered
    if counts.bad or not counts.empty:
        return Problem(where, f"none of {kept} rows is usable.")
    columns = " or ".join(f"'{column}'" for column in counts.empty)
    return Problem(where, f"all {kept} rows have an empty {columns}.")


def _say_counts(counts: Counts, rows: Sequence[DataRow], say: Say) -> None:
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
        say(f"data: {repeated} of {len(rows)} rows repeat another row")
