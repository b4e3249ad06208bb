"""Read the rows that a recipe asks for, turn them into examples, and count the rows that are left out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from adapterzoo.data.row_content import DIGEST_BYTES, sorted_positions
from adapterzoo.data.shape import Shaper
from adapterzoo.data.sources import RowSource, open_source, source_key
from adapterzoo.data.stored_rows import RowCollector, distinct, known_rows
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Places
from adapterzoo.errors import Problem, UserError
from adapterzoo.formats import FORMATS, Format
from adapterzoo.formats.cell_text import text_of
from adapterzoo.recipe.files import DELIMITERS
from adapterzoo.recipe.schema import DataSection
from adapterzoo.terminal import Progress

if TYPE_CHECKING:
    import numpy

MAX_PROBLEMS_SHOWN = 5  # further unusable rows are only counted
MAX_VALUES_SHOWN = 5  # number of values of a filtered column that are shown if no row is left
ROWS_WITH_UNUSED = 100  # number of rows in which texts that are not used are looked for
MAX_LIMIT_IN_MEMORY = 100_000  # with a larger limit, all rows are collected before they are shuffled
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
    empty: dict[str, Places] = field(default_factory=dict)
    """column -> rows whose cell is empty there"""
    bad: int = 0
    """number of rows that do not fit the format"""
    problems: list[Problem] = field(default_factory=list)
    """the first of them"""
    unanswered: Places = field(default_factory=Places)
    """conversations whose last question has no answer"""
    unused: dict[str, None] = field(default_factory=dict)
    """columns with texts that no example has, among the first rows"""
    values: dict[str, set[str]] = field(default_factory=dict)
    """filtered column -> some of its values"""


def read_rows(
    data: DataSection,
    names: Sequence[str],
    split: str | None = None,
    say: Say = _say_nothing,
    formats: Mapping[str, Format] = FORMATS,
) -> tuple[Sequence[DataRow], str]:
    """Return the examples in a source and the name of their format.

    Many rows are kept in a file, from which later runs take them.

    Args:
        data: the recipe's data section.
        names: files, the folder of a saved dataset, or a hub id.
        split: name of a split of a saved dataset or a hub id.
        say: called with messages on the rows that are left out, and on the format that was recognised.
        formats: the formats that the rows may have.

    Raises:
        UserError: the source cannot be read, no row is usable, or some rows do not fit the format.
    """
    key = source_key(data, names, split, formats)
    if key is None or (known := known_rows(key)) is None:
        rows, notes = _read(data, names, split, formats, key)
    else:
        rows, notes = known
    for note in notes["said"]:
        say(note)
    if repeated := len(rows) - distinct(rows):
        say(f"data: {repeated} of {len(rows)} rows repeat another row")
    return rows, notes["format"]


def _read(
    data: DataSection, names: Sequence[str], split: str | None, formats: Mapping[str, Format], key: str | None
) -> tuple[Sequence[DataRow], dict[str, Any]]:
    """Return the examples in a source, the name of their format, and what there is to say about the other rows."""
    said: list[str] = []
    source = open_source(names, data, split)
    where = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    header = f"{where}:1" if where.endswith(tuple(DELIMITERS)) else where
    shaper = Shaper(data, source.columns, header, said.append, formats)
    counts = Counts()
    with RowCollector() as collector:
        order = _collect(_shaped(source, data, shaper, counts), data, collector)
        if counts.bad and data.bad_rows == "error":
            shown = counts.problems
            if more := counts.bad - len(shown):
                what = f"{more} more rows are not usable either."
                shown.append(Problem(where, what, "data.bad_rows: drop leaves all such rows out."))
            raise UserError(*shown)
        if not len(collector):
            raise UserError(_no_rows(where, data, counts))
        notes = {"said": [*said, *_lines(counts)], "format": shaper.name}
        # Later runs must not take these rows for those of a file that has changed meanwhile.
        unchanged = key is not None and key == source_key(data, names, split, formats)
        return collector.rows(order, notes, key if unchanged else None), notes


def _shaped(source: RowSource, data: DataSection, shaper: Shaper, counts: Counts) -> Iterator[DataRow]:
    """Yield the usable rows, and count the others."""
    progress = Progress("rows read")
    for place, cells in source.rows:
        counts.read += 1
        progress.add()
        if not _passes_filter(cells, data.filter, counts):
            counts.filtered += 1
            continue
        try:
            row = shaper.row(place, cells)
        except EmptyRowError as empty:
            counts.empty.setdefault(str(empty), Places()).add(place)
            continue
        except BadRowError as bad:
            counts.bad += 1
            if len(counts.problems) < MAX_PROBLEMS_SHOWN:
                counts.problems.append(Problem(place, bad.what, bad.hint))
            continue
        if counts.read <= ROWS_WITH_UNUSED:
            counts.unused |= dict.fromkeys(shaper.unused_texts(cells))
        if shaper.unanswered(cells, row):
            counts.unanswered.add(place)
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


def _collect(rows: Iterator[DataRow], data: DataSection, collector: RowCollector) -> numpy.ndarray | None:
    """Collect the rows that the limit leaves; return their positions in shuffled order, or None if it is their own."""
    if data.shuffle is None:
        for row in islice(rows, data.limit):
            collector.add(row)
        return None
    import numpy

    # Sort by a hash of seed and row number, so that the order is the same on any machine and with any library.
    if data.limit is not None and data.limit <= MAX_LIMIT_IN_MEMORY:
        return numpy.array(_first_shuffled(rows, data.shuffle, data.limit, collector), numpy.int64)
    keys = bytearray()
    for number, row in enumerate(rows):
        keys += _key(data.shuffle, number)[:DIGEST_BYTES]
        collector.add(row)
    return sorted_positions(keys)[: data.limit]


def _first_shuffled(rows: Iterator[DataRow], seed: int, limit: int, collector: RowCollector) -> list[int]:
    """Collect the rows that were among the first ones when they were read; return the positions of the first ones."""
    first: list[tuple[int, int]] = []
    """a heap of key and position of the first rows so far; the keys are negative, so that the last row is on top"""
    for number, row in enumerate(rows):
        key = -int.from_bytes(_key(seed, number))
        if len(first) < limit:
            heapq.heappush(first, (key, len(collector)))
        elif key > first[0][0]:
            heapq.heapreplace(first, (key, len(collector)))
        else:
            continue
        collector.add(row)
    return [position for _, position in sorted(first, reverse=True)]


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


def _lines(counts: Counts) -> Iterator[str]:
    """Yield messages on the rows that are left out."""
    if counts.filtered:
        yield f"data: {counts.filtered} of {counts.read} rows left out by data.filter"
    for column, rows in counts.empty.items():
        yield f"data: {rows.count} of {counts.read} rows dropped: '{column}' is empty (first: {rows.first})"
    if counts.bad:
        first = counts.problems[0]
        yield f"data: {counts.bad} of {counts.read} rows dropped as unusable (first: {first.where}: {first.what})"
    if counts.unused:
        columns = ", ".join(f"'{column}'" for column in counts.unused)
        yield f"data: no example has the text in {columns} (data.template can use it, data.drop_columns leaves it out)"
    if counts.unanswered.count:
        ends = f"{counts.unanswered.count} conversations end with a question, which is left out"
        yield f"data: {ends} (first: {counts.unanswered.first})"
