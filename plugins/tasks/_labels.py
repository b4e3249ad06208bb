"""The data format of texts and their labels, and what is wrong with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from adapterzoo import Problem
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.formats import Format
from adapterzoo.formats.cell_text import list_of, text_of
from adapterzoo.tasks.contract import Rows
from adapterzoo.tasks.once import once

Kind = Literal["one", "several", "number"]
MAX_SHOWN = 5  # further rows with the same problem are only counted
LABELS = "labels"  # key of a row's labels in DataRow.more, if there may be several
SEPARATOR = "; "  # between several labels in a text


@dataclass(frozen=True)
class Labelled(Format):
    """A format of one or two texts and a label."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the texts, and the label as the answer."""
        *texts, answer = self.columns
        value = list_of(cells.get(answer))
        named = self.text(cells, answer) if value is None else SEPARATOR.join(_names(value))
        return [*(Turn("user", self.text(cells, text)) for text in texts), Turn("assistant", named)]

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
        """Return the labels of a row that may have several."""
        value = list_of(cells.get(self.columns[-1]))
        return {} if value is None else {LABELS: _names(value)}


def _names(labels: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of a row's labels in alphabetical order, in which answers name them too.

    Raises:
        EmptyRowError: a label is empty.
        BadRowError: a label has a semicolon, which stands between labels, or is there twice.
    """
    names = [text_of(name, "label").strip() for name in labels]
    if "" in names:
        raise EmptyRowError("label", "an empty label in its list")
    for name in names:
        if ";" in name:
            raise BadRowError(f"its label '{name}' has a semicolon, which separates labels.", "Rename the label.")
        if names.count(name) > 1:
            hint = "Give the names of its labels. If the list has a 0 or 1 for each label, replace it by names."
            raise BadRowError(f"its label '{name}' is in the list twice.", hint)
    return tuple(sorted(names))


def labels_of(row: DataRow, kind: Kind) -> tuple[str, ...]:
    """Return the names of a row's labels."""
    if kind == "one":
        return (row.completion,)
    return dict(row.more).get(LABELS, (row.completion,))  # type: ignore[return-value]


@dataclass(frozen=True)
class Known:
    """The different labels of the training rows."""

    several: bool
    """whether a row has a list of labels"""
    single: frozenset[str]
    """the labels, or several of a row as one text"""
    listed: frozenset[str]
    """the labels, also those in lists"""


@once
def known_labels(train: Sequence[DataRow]) -> Known:
    """Return the labels of training rows."""
    several, single, listed = False, set[str](), set[str]()
    for row in train:
        several = several or bool(row.more)
        single.add(row.completion)
        listed.update(labels_of(row, "several"))
    return Known(several, frozenset(single), frozenset(listed))


def is_fraction(text: str) -> bool:
    try:
        return not float(text).is_integer()
    except (ValueError, OverflowError):
        return False


def number_problems(rows: Rows) -> list[Problem]:
    """Return problems for the first rows whose label is not a finite number, or if all have the same number."""
    problems = []
    for row in chain(rows.train, rows.validation, rows.test):
        try:
            finite = abs(float(row.completion)) < float("inf")
        except ValueError:
            finite = False
        if not finite:
            problems.append(Problem(row.place, f"its label '{row.completion}' is not a number, as task.labels says."))
            if len(problems) == MAX_SHOWN:
                break
    if not problems and not any(float(row.completion) != float(rows.train[0].completion) for row in rows.train):
        what = "the training rows have the same number: there is nothing to learn."
        problems.append(Problem("data", what, "Give rows with different numbers."))
    return problems
