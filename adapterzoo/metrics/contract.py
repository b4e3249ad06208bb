"""The metric contract: how a metric scores one test example, and how it scores the whole test split.

This module does not import torch. A plugin module may import torch only inside functions. A complete metric::

    from adapterzoo import Metric, hookimpl


    def same_length(reference: str, answer: str) -> bool:
        "Share of answers with as many words as the reference (0 to 1)."
        return len(answer.split()) == len(reference.split())


    @hookimpl
    def adapterzoo_metrics():
        return [Metric("same_length", same_length)]
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from statistics import fmean
from typing import Any, Literal, get_args

from adapterzoo.errors import PluginError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Allow capitals in columns, because many scores are spelled with them.
COLUMN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Better = Literal["higher", "lower"]
Score = float | bool | Mapping[str, float]


@dataclass(frozen=True)
class ColumnStyle:
    """The title, number format and limits of one column of a metric in the table."""

    title: str
    """title of the column; it should be short, because a terminal has about 80 characters for all columns"""
    format: str = ".3g"
    """format specification of a value, as Python's ``format`` takes it"""
    explanation: str = ""
    """line below the table that explains the title, if it needs an explanation"""
    bounds: tuple[float, float] | None = None
    """lowest and highest possible value; an interval does not go beyond them"""
    drop: int = 12
    """order in which columns are left out in a narrow terminal, the highest number first; 0 is never left out"""
    wide: bool = False
    """whether the column is shown only in a wide terminal"""


@dataclass(frozen=True)
class Metric:
    """A metric: one or several numbers that say how good answers are.

    Raises:
        PluginError: a field has a wrong value. The message names the metric and the field.
    """

    name: str
    """name in a recipe under ``evaluate.metrics``: lower-case letters, digits, ``_`` and ``-``"""
    score: Callable[[str, str], Score] | None
    """``score(reference, answer)`` returns the score of one test example: a number, or a number for each column. The
    answer may be empty. None if a task measures the metric itself, because it needs more than the answer"""
    summary: str = ""
    """one line with the scale and the normalisation of texts; by default the first line of ``score``'s docstring"""
    total: Callable[[Sequence[str], Sequence[str]], Score] | None = None
    """``total(references, answers)`` returns the score of the whole test split; if None, it is the mean score"""
    columns: tuple[str, ...] = ()
    """names of the numbers in the results; by default only the metric's name"""
    better: Better = "higher"
    """whether the higher or the lower value is better"""
    label: Callable[[str], str] | None = None
    """for a metric that compares labels: returns the label that a text names. If a label is in the test split and in
    no training row, this is then reported as an error in the data before training"""
    styles: Mapping[str, ColumnStyle] = field(default_factory=dict)
    """column -> how the table shows it; the title of a column without a style is its name"""
    right_or_wrong: bool = False
    """for a metric without ``score``: whether each example is only right or wrong"""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            what = "it may have only lower-case letters, digits, '_' and '-'"
            raise PluginError(f"a metric's name is {self.name!r}, but {what}")
        if self.score is not None and not callable(self.score):
            raise self._wrong("score", "not a function of a reference and an answer")
        if self.total is not None and not callable(self.total):
            raise self._wrong("total", "not a function of references and answers")
        if not self.summary:
            described = inspect.getdoc(self.score) or "" if self.score else ""
            object.__setattr__(self, "summary", described.partition("\n")[0].rstrip("."))
        if not isinstance(self.summary, str) or not self.summary.strip():
            raise self._wrong("summary", "not a line of text, and score() has no docstring")
        if not self.columns:
            object.__setattr__(self, "columns", (self.name,))
        # Do not accept every kind of sequence, because each letter of a text would become a column.
        if not isinstance(self.columns, tuple | list) or not all(
            isinstance(column, str) and COLUMN.fullmatch(column) for column in self.columns
        ):
            raise self._wrong("columns", "not a tuple of names of letters, digits, '_' and '-'")
        if len(set(self.columns)) < len(self.columns):
            raise self._wrong("columns", "which has the same name twice")
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.better not in get_args(Better):
            raise self._wrong("better", f"not {' or '.join(get_args(Better))}")
        if self.label is not None and not callable(self.label):
            raise self._wrong("label", "not a function from a text to the label that it names")
        if not isinstance(self.styles, Mapping) or not all(
            column in self.columns and isinstance(style, ColumnStyle) for column, style in self.styles.items()
        ):
            raise self._wrong("styles", "not a mapping from its columns to adapterzoo.ColumnStyle")

    def _wrong(self, field: str, what: str) -> PluginError:
        return PluginError(f"metric '{self.name}': {field} is {getattr(self, field)!r:.100}, {what}")


def per_example(metric: Metric, reference: str, answer: str) -> dict[str, float | bool]:
    """Return the score of one answer by column; a bool if the metric only says right or wrong.

    Raises:
        PluginError: ``score`` raised an exception, or did not return a finite number for each column.
    """
    return _columns(metric, "score", _call(metric, "score", reference, answer))


def overall(
    metric: Metric,
    references: Sequence[str],
    answers: Sequence[str],
    scores: Sequence[Mapping[str, float | bool]],
) -> dict[str, float]:
    """Return the score of all answers together, by column: the metric's ``total``, or else the mean.

    Args:
        metric: the metric.
        references: references of the test examples, at least one.
        answers: answers to the same examples, in the same order.
        scores: scores of the same examples, as :func:`per_example` returned them.

    Raises:
        PluginError: ``total`` raised an exception, or did not return a finite number for each column.
    """
    if metric.total is not None:
        # Pass copies, because a third-party metric may change the lists that the next metric gets.
        totals = _columns(metric, "total", _call(metric, "total", list(references), list(answers)))
        return {column: float(value) for column, value in totals.items()}
    try:
        return {column: fmean(score[column] for score in scores) for column in metric.columns}
    except OverflowError:
        raise PluginError(f"the scores of metric '{metric.name}' are too large to take their mean") from None


def _call(metric: Metric, function: str, *arguments: Any) -> Any:
    try:
        returned = getattr(metric, function)(*arguments)
        return dict(returned) if isinstance(returned, Mapping) else returned
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        raise PluginError(f"{function}() of metric '{metric.name}' raised {type(error).__name__}: {error}") from error


def _columns(metric: Metric, function: str, returned: Any) -> dict[str, float | bool]:
    values = returned if isinstance(returned, Mapping) else {metric.columns[0]: returned}
    numbers = {column: finite_number(value) for column, value in values.items()}
    if set(numbers) != set(metric.columns) or None in numbers.values():
        wanted = ", ".join(metric.columns)
        raise PluginError(
            f"{function}() of metric '{metric.name}' returned {returned!r:.100}, "
            + ("not a finite number" if len(metric.columns) == 1 else f"not a finite number for each of {wanted}")
        )
    return {column: value for column in metric.columns if (value := numbers[column]) is not None}


def finite_number(value: Any) -> float | bool | None:
    """Return a value as a finite number, or None if it is not one; numbers of numpy and torch are converted."""
    try:
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, bool):
            return value
        return number if isinstance(value, Real) and math.isfinite(number := float(value)) else None
    except Exception:  # an array with several numbers, or an int too large for a float
        return None
