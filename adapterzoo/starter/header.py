"""Tell whether the first line of a table holds column names or is a row already."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from adapterzoo.errors import UserError
from adapterzoo.starter.columns import Column, brief, is_known

VALUES = {
    "a date": re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}"),
    "a number": re.compile(r"[-+]?\d+([.,]\d+)*%?"),
}
YEAR = re.compile(r"(19|20)\d\d")
MIN_SENTENCE_WORDS, MIN_PROSE_WORDS = 3, 8
ENDS, WIDE_ENDS = (".", "?", "!"), ("。", "？", "！")  # of a sentence; the wide ones of languages without spaces
MOST = 0.5  # a name that looks like more than this share of its column's cells is one of them


class Evidence(NamedTuple):
    """A reason to take the line of column names for a row."""

    sure: bool
    reason: str


def header_doubt(source: str, columns: Sequence[Column], delimiter: str) -> str:
    """Return why the first line may be a row and not column names; nothing where there is no reason.

    Raises:
        UserError: it is one.
    """
    known = sum(map(is_known, columns))
    names = [column.name.strip() for column in columns if column.name.strip()]
    if known > 1 or names == [str(number) for number in range(len(names))]:  # pandas names columns 0, 1, 2
        return ""
    found = [evidence for column in columns if not is_known(column) for evidence in _evidence(column)]
    strongest = max(found, key=lambda evidence: evidence.sure, default=None)
    if strongest is None or (known and not strongest.sure):
        return ""
    example = "text" if len(columns) == 1 else delimiter.join(["question", "answer", "topic", "..."][: len(columns)])
    hint = f"put a line of column names above it, such as {example.expandtabs(4)}"
    if strongest.sure and not known:
        what = f"this line looks like a row, not like column names: {strongest.reason}."
        raise UserError.at(f"{source}:1", what, f"{hint.capitalize()}.")
    return f"{strongest.reason}: if line 1 is a row, {hint}"


def _evidence(column: Column) -> list[Evidence]:
    """Return why a column's name may be a cell of a row: nothing for most names."""
    name = column.name.strip()
    if not name:
        index = all(text.isdigit() for text in column.texts)  # pandas writes the number of a row under no name
        return [] if index else [Evidence(True, "a cell of it is empty")]
    return [*_repeated(column, name), *_value(column, name), *_sentence(column, name)]


def _repeated(column: Column, name: str) -> Iterator[Evidence]:
    if times := column.texts.count(name):
        counted = "once" if times == 1 else f"{times} times"
        yield Evidence(times > 1 and bool(column.labels), f"{brief(name)} stands again in its column, {counted}")


def _value(column: Column, name: str) -> Iterator[Evidence]:
    for kind, pattern in VALUES.items():
        if pattern.fullmatch(name):
            alike = _most(pattern.fullmatch(text) for text in column.texts)
            yield Evidence(alike and not YEAR.fullmatch(name), f"{brief(name)} is {kind}")


def _sentence(column: Column, name: str) -> Iterator[Evidence]:
    words, end = len(name.split()), name[-1]
    if end in WIDE_ENDS or (end in ENDS and words >= MIN_SENTENCE_WORDS):
        # Surveys have whole questions for names, but what stands below them is answered and not asked.
        yield Evidence(_most(text.endswith(end) for text in column.texts), f"{brief(name)} is a sentence")
    elif words >= MIN_PROSE_WORDS:
        yield Evidence(False, f"{brief(name)} is long for a name")


def _most(matches: Iterable[object]) -> bool:
    found = [bool(match) for match in matches]
    return sum(found) > MOST * len(found)
