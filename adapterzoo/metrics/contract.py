"""The metric contract: what one test example scores, and what the whole test split does.

Nothing here imports torch, and a plugin module must not either, outside its functions. A complete metric::

    from adapterzoo import Metric, hookimpl


    def same_length(reference: str, answer: str) -> bool:
        "The answer has as many words as the reference."
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
# The field's own spellings, rougeL say, have capitals.
COLUMN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Better = Literal["higher", "lower"]
Score = float | bool | Mapping[str, float]


@dataclass(frozen=True)
class ColumnStyle:
    """How a column of a metric reads in the table."""

    title: str
    """short: a terminal has 80 columns for all of them"""
    format: str = ".3g"
    """format specification of a value, as Python's ``format`` takes it"""
    explanation: str = ""
    """a line below the table, where the title does not say it all"""
    bounds: tuple[float, float] | None = None
    """lowest and highest value there can be: an interval ends there"""
    drop: int = 12
    """the highest number goes first where the terminal is narrow; 0 always stays"""
    wide: bool = False
    """shown only where there is room to spare"""


@dataclass(frozen=True)
class Metric:
    """A number, or several, for how good answers are.

    Raises:
        PluginError: a field is not what it should be. Names the metric and the field.
    """

    name: str
    """as written in a recipe under ``evaluate.metrics``: lower-case letters, digits, ``_`` and ``-``"""
    score: Callable[[str, str], Score]
    """``score(reference, answer)`` of one test example: a number, or one for each column. The answer may be empty."""
    summary: str = ""
    """one line, with the scale and how texts are normalised; by default the first line of ``score``'s docstring"""
    total: Callable[[Sequence[str], Sequence[str]], Score] | None = None
    """``total(references, answers)`` of the whole test split; None = the mean of the examples' scores"""
    columns: tuple[str, ...] = ()
    """names of what it gives, as in the results; by default its own name"""
    better: Better = "higher"
    """which of two values is the better one"""
    label: Callable[[str], str] | None = None
    """for a metric of labels: returns the label that a text names. A label of the test split that no training row has
    is then an error in the data, before anything is trained"""
    styles: Mapping[str, ColumnStyle] = field(default_factory=dict)
    """column -> how it reads in the table; a column without one has its name for a title"""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise PluginError(f"a metric's name is {self.name!r}: only lower-case letters, digits, '_' and '-'")
        if not callable(self.score):
            raise self._wrong("score", "no function of a reference and an answer")
        if self.total is not None and not callable(self.total):
            raise self._wrong("total", "no function of references and answers")
        if not self.summary:
            described = inspect.getdoc(self.score) or ""
            object.__setattr__(self, "summary", described.partition("\n")[0].rstrip("."))
        if not isinstance(self.summary, str) or not self.summary.strip():
            raise self._wrong("summary", "no line of text, and score() has no docstring")
        if not self.columns:
            object.__setattr__(self, "columns", (self.name,))
        # Not any sequence: of a text, every letter would be a column.
        if not isinstance(self.columns, tuple | list) or not all(
            isinstance(column, str) and COLUMN.fullmatch(column) for column in self.columns
        ):
            raise self._wrong("columns", "no tuple of names in letters, digits, '_' and '-'")
        if len(set(self.columns)) < len(self.columns):
            raise self._wrong("columns", "the same name twice")
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.better not in get_args(Better):
            raise self._wrong("better", f"none of {', '.join(get_args(Better))}")
        if self.label is not None and not callable(self.label):
            raise self._wrong("label", "no function from a text to the label that it names")
        if not isinstance(self.styles, Mapping) or not all(
            column in self.columns and isinstance(style, ColumnStyle) for column, style in self.styles.items()
        ):
            raise self._wrong("styles", "no mapping from its columns to adapterzoo.ColumnStyle")

    def _wrong(self, field: str, what: str) -> PluginError:
        return PluginError(f"metric '{self.name}': {field} is {getattr(self, field)!r:.100}, {what}")


def per_example(metric: Metric, reference: str, answer: str) -> dict[str, float | bool]:
    """What one answer scores, by column; a bool where the metric says right or wrong.

    Raises:
        PluginError: ``score`` raised, or returned something else than finite numbers for the columns.
    """
    return _columns(metric, "score", _call(metric, "score", reference, answer))


def overall(
    metric: Metric,
    references: Sequence[str],
    answers: Sequence[str],
    scores: Sequence[Mapping[str, float | bool]],
) -> dict[str, float]:
    """What all answers score together, by column.

    Args:
        metric: its ``total`` is asked, if it has one.
        references: of the test examples, at least one.
        answers: to the same examples, in the same order.
        scores: of the same examples, each as :func:`per_example` returned it.

    Raises:
        PluginError: ``total`` raised, or returned something else than finite numbers for the columns.
    """
    if metric.total is not None:
        # Copies: what a stranger sorts in place must not be what the next metric sees.
        found = _columns(metric, "total", _call(metric, "total", list(references), list(answers)))
        return {column: float(value) for column, value in found.items()}
    try:
        return {column: fmean(score[column] for score in scores) for column in metric.columns}
    except OverflowError:
        raise PluginError(f"the scores of metric '{metric.name}' are too large to take their mean") from None


def _call(metric: Metric, function: str, *arguments: Any) -> Any:
    try:
        found = getattr(metric, function)(*arguments)
        return dict(found) if isinstance(found, Mapping) else found
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        raise PluginError(f"{function}() of metric '{metric.name}' raised {type(error).__name__}: {error}") from error


def _columns(metric: Metric, function: str, found: Any) -> dict[str, float | bool]:
    values = found if isinstance(found, Mapping) else {metric.columns[0]: found}
    numbers = {column: _number(value) for column, value in values.items()}
    if set(numbers) != set(metric.columns) or None in numbers.values():
        wanted = ", ".join(metric.columns)
        raise PluginError(
            f"{function}() of metric '{metric.name}' returned {found!r:.100}, "
            + ("not a finite number" if len(metric.columns) == 1 else f"not a finite number for each of {wanted}")
        )
    return {column: value for column in metric.columns if (value := numbers[column]) is not None}


def _number(value: Any) -> float | bool | None:
    """A finite number, or None; numpy's and torch's own are taken for what they hold."""
    try:
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, bool):
            return value
        return number if isinstance(value, Real) and math.isfinite(number := float(value)) else None
    except Exception:  # an array of several, an int too large for a float
        return None
