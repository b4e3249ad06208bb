"""The table of the page: its columns, what they are sorted by, and the filters of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.comparison.order import HIGHER
from adapterzoo.report.columns import BEST, COSTS, TIED, UNRANKED, Column, cell, columns, interval_text, mark, value
from adapterzoo.report.page import pairs
from adapterzoo.results.row import Row
from adapterzoo.terminal import clean, count, size

# Costs that rows can be filtered by.
LIMITS = ("trainable_params", "train_seconds", "peak_memory_bytes", "adapter_bytes", "answer_seconds", "cost")
SERVING = "serving."
MEANINGS = {BEST: "best", TIED: "tied for best", UNRANKED: "not ranked"}


class Sign(NamedTuple):
    """A sign behind a value, and what it means."""

    text: str
    meaning: str
    kind: str
    """class of the cell, which gives it its colour"""


class Limit(NamedTuple):
    """A filter: rows whose value in a column is at most, or at least, one of the values in the table."""

    column: str
    title: str
    at_least: bool
    choices: list[tuple[str, float]]
    """text and value of each choice, from the strictest"""


def page_columns(comparison: Comparison) -> list[Column]:
    """Return the columns of the page: those of every form, the interval of the difference, and those of serving."""
    shown = []
    for column in columns(comparison):
        shown.append(column)
        if column.name == "difference" and any(row.difference_interval for row in comparison.rows):
            shown.append(Column("its 95 %", "difference_interval", interval_text))
    return [*shown, *_serving_columns(comparison)]


def _serving_columns(comparison: Comparison) -> list[Column]:
    """Return a column for each value that the rows have on how they are served."""
    names = dict.fromkeys(name for row in comparison.rows for name in _serving(row))
    return [Column(clean(name.replace("_", " ")), f"{SERVING}{name}", _shown_as(name)) for name in names]


def _serving(row: Row) -> Mapping[str, Any]:
    """Return what is known on how a row is served, without what is no single value."""
    served = row.serving or {}
    costs = {
        f"{form} {name}": value for form in ("adapter", "merged") for name, value in (served.get(form) or {}).items()
    }
    return {name: value for name, value in (served | costs).items() if isinstance(value, str | int | float)}


def _shown_as(name: str) -> Callable[[Any], str]:
    """Return the function that writes the values of a name, which may say their unit."""

    def shown(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return {True: "yes", False: "no"}.get(value, str(value))
        if "bytes" in name:
            return size(value)
        return count(value) if isinstance(value, int) else f"{value:.3g}"

    return shown


def page_value(row: Row, column: Column) -> Any:
    """Return the value of a row in a column of the page; None if it has none."""
    if column.name.startswith(SERVING):
        return _serving(row).get(column.name.removeprefix(SERVING))
    if column.name == "difference_interval" and row.p_value is None:
        return None
    return value(row, column)


def page_cell(row: Row, column: Column, *, failed: bool = False) -> str:
    """Return the text of a row in a column of the page; ``failed`` is that of :func:`cell`."""
    if column.name.startswith(SERVING):
        served = page_value(row, column)
        return "-" if served is None else clean(column.show(served))
    return cell(row, column, failed=failed)


def sort_key(row: Row, column: Column, text: str) -> Any:
    """Return the value that a cell of the table is sorted by; None if the cell is empty, which puts it last."""
    content = None if text == "-" else page_value(row, column)
    return content[0] if isinstance(content, tuple) else len(content) if isinstance(content, list) else content


def sign(comparison: Comparison, block: Block, row: Row, column: Column) -> Sign | None:
    """Return the sign behind a value, with its meaning for those who do not see it; None if there is none."""
    if column.name == "difference":
        return _sign_of_difference(comparison, row)
    text = mark(comparison, block, row, column) if not column.name.startswith(SERVING) else ""
    return Sign(text, MEANINGS[text], "best" if text == BEST else "tied") if text else None


def _sign_of_difference(comparison: Comparison, row: Row) -> Sign | None:
    if row.p_value is None or row.tied is None or row.difference is None:
        return None
    better = comparison.better(row.rank_metric or "")
    word = pairs.TIED if row.tied else pairs.BETTER if better and better(row.difference, 0.0) != 0 else pairs.WORSE
    return Sign(pairs.SIGNS[word], word, "" if row.tied else word)


def high_first(comparison: Comparison, column: Column) -> bool:
    """Tell whether the first click on a column's title puts the highest value on top."""
    metric = next((row.rank_metric for row in comparison.rows if row.rank_metric), "")
    of_score = column.name in ("interval", "difference", "difference_interval")
    return comparison.better(metric if of_score else column.name) is HIGHER


def limits(comparison: Comparison, shown: Sequence[Column]) -> list[Limit]:
    """Return the filters by the score and by costs in which the rows differ."""
    wanted = [shown[0].name, *(cost.name for cost in COSTS if cost.name in LIMITS)]
    found = []
    for column in (column for column in shown if column.name in wanted):
        by_text = {page_cell(row, column): page_value(row, column) for row in comparison.rows if row.metrics}
        at_least = high_first(comparison, column)
        choices = [(text, number) for text, number in by_text.items() if isinstance(number, int | float)]
        choices.sort(key=lambda choice: choice[1], reverse=at_least)
        if len(choices) > 1:
            found.append(Limit(column.name, column.title, at_least, choices))
    return found
