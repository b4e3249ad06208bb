"""Find out whether the first line of a table has column names or is a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from adapterzoo.errors import UserError
from adapterzoo.starter.columns import DataColumn, brief, is_known

VALUES = {
    "a date": re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}"),
    "a number": re.compile(r"[-+]?\d+([.,]\d+)*%?"),
}
YEAR = re.compile(r"(19|20)\d\d")
MIN_SENTENCE_WORDS, MIN_PROSE_WORDS = 3, 8
# The marks that end a sentence; the wide ones belong to languages without spaces.
ENDS, WIDE_ENDS = (".", "?", "!"), ("。", "？", "！")
# A column name counts as a cell if more than this share of the cells below it look like it.
MOST = 0.5


class Evidence(NamedTuple):
    """A reason to believe that the line of column names is a row."""

    sure: bool
    reason: str


def header_doubt(source: str, columns: Sequence[DataColumn], delimiter: str) -> str:
    """Return why the first line may be a row and not column names; an empty text if there is no reason.

    Raises:
        UserError: the first line is a row.
    """
    known_names = sum(map(is_known, columns))
    names = [column.name.strip() for column in columns if column.name.strip()]
    numbered = names == [str(number) for number in range(len(names))]  # pandas writes 0, 1, 2 as column names.
    if known_names > 1 or numbered:
        return ""
    reasons = [evidence for column in columns if not is_known(column) for evidence in _evidence(column)]
    strongest = max(reasons, key=lambda evidence: evidence.sure, default=None)
    if strongest is None or (known_names and not strongest.sure):
        return ""
    example = "text" if len(columns) == 1 else delimiter.join(["question", "answer", "topic", "..."][: len(columns)])
    hint = f"put a line of column names above it, such as {example.expandtabs(4)}"
    if strongest.sure and not known_names:
        what = f"this line looks like a row, not like column names: {strongest.reason}."
        raise UserError.at(f"{source}:1", what, f"{hint.capitalize()}.")
    return f"{strongest.reason}: if line 1 is a row, {hint}"


def _evidence(column: DataColumn) -> list[Evidence]:
    """Return the reasons to believe that the name of a column is a cell; for most names there are none."""
    name = column.name.strip()
    if not name:
        # pandas writes the numbers of the rows into a column without a name.
        row_numbers = all(text.isdigit() for text in column.texts)
        return [] if row_numbers else [Evidence(True, "one of its cells is empty")]
    return [*_repeated(column, name), *_value(column, name), *_sentence(column, name)]


def _repeated(column: DataColumn, name: str) -> Iterator[Evidence]:
    """Yield evidence if the name is also a cell of its column; it is sure if two cells have it and are labels."""
    if times := column.texts.count(name):
        counted = "once" if times == 1 else f"{times} times"
        yield Evidence(times > 1 and bool(column.labels), f"{brief(name)} is also in its column, {counted}")


def _value(column: DataColumn, name: str) -> Iterator[Evidence]:
    """Yield evidence if the name is a date or a number; it is sure if most cells are, unless it may be a year."""
    for kind, pattern in VALUES.items():
        if pattern.fullmatch(name):
            cells_match = _most(pattern.fullmatch(text) for text in column.texts)
            yield Evidence(cells_match and not YEAR.fullmatch(name), f"{brief(name)} is {kind}")


def _sentence(column: DataColumn, name: str) -> Iterator[Evidence]:
    """Yield evidence if the name is long or a sentence; it is sure for a sentence if most cells end like it."""
    words, end = len(name.split()), name[-1]
    if end in WIDE_ENDS or (end in ENDS and words >= MIN_SENTENCE_WORDS):
        # In surveys a column name can be a question too, but then the cells are answers and end differently.
        yield Evidence(_most(text.endswith(end) for text in column.texts), f"{brief(name)} is a sentence")
    elif words >= MIN_PROSE_WORDS:
        yield Evidence(False, f"{brief(name)} is long for a name")


def _most(matches: Iterable[object]) -> bool:
    results = [bool(match) for match in matches]
    return sum(results) > MOST * len(results)
