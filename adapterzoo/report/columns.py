"""Describe the columns of the table: their titles, their values, how values are written, and which are marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.metrics.registry import style, styles
from adapterzoo.prepare.budget import misses
from adapterzoo.results.row import Interval, Row
from adapterzoo.terminal import clean, count, duration, size

BEST = "*"
TIED = "="
UNRANKED = "~"


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    name: str
    """name under which a row has the column's value"""
    show: Callable[[Any], str]
    """returns a value as text"""
    drop: int = 0
    """order in which columns are left out in a narrow terminal, the highest number first; 0: it is never left out"""
    wide: bool = False
    """whether the column is shown only in a wide terminal"""
    explanation: str = ""
    """line below the table that explains the title, if it needs an explanation"""


def _learning_rate(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def p_value_text(value: float) -> str:
    """Return a p-value as text, like ``.012``."""
    text = f"{value:.3f}".removeprefix("0")
    # .050 means a tie, so a value like .0496, which means a difference, must not be shown as .050.
    return "<.001" if value < 0.001 else "<.050" if value < 0.05 and text == ".050" else text


# This column comes first if no row has a metric, because the first column says that a row failed.
NO_METRIC = Column("score", "score", str)
COSTS = (
    Column("params", "trainable_params", count, drop=2),
    Column("%", "share", lambda value: f"{value:.2f}", drop=9),
    Column("size", "adapter_bytes", size, drop=10),
    Column("time", "train_seconds", duration, drop=3),
    Column("tok/s", "tokens_per_second", lambda value: str(round(value)), drop=11),
    Column("memory", "peak_memory_bytes", size, drop=8),
    Column("s/answer", "answer_seconds", lambda value: f"{value:.2g}", wide=True),
    Column(
        "cost",
        "cost",
        lambda value: f"{value:.3g}",
        drop=3,
        explanation="cost: tuning, training and measuring of all seeds",
    ),
    Column("lr", "learning_rate", _learning_rate, drop=4),
    Column("quant.", "quantization", str, drop=6),
    Column("seeds", "seeds", lambda value: str(len(value)), wide=True),
)


def names_by_title() -> dict[str, str]:
    """Return title -> name for the columns that the rows can be sorted by."""
    metrics = {style.title: name for name, style in styles().items()}
    return metrics | {column.title: column.name for column in COSTS if column.name != "share"}


def metric_column(name: str) -> Column:
    """Return the column of a metric."""
    own = style(name)
    show = partial(_formatted, own.format)
    return Column(clean(own.title), name, show, own.drop, own.wide, clean(own.explanation))


def _formatted(specification: str, value: float) -> str:
    return format(value, specification)


def interval_text(interval: Interval) -> str:
    """Return an interval as text, like ``.66-.76``, with so many digits that its ends differ."""
    low, high = interval
    digits = 2 if max(map(abs, interval)) < 10 else 1
    while digits < 6 and high - low < 2 * 10.0**-digits:
        digits += 1
    ends = [f"{end:.{digits}f}" for end in interval]
    if max(map(abs, interval)) <= 1:
        ends = [end.replace("0.", ".", 1) for end in ends]
    return f"{ends[0]} to {ends[1]}" if low < 0 else "-".join(ends)


def difference_text(metric: str) -> Callable[[float], str]:
    """Return a function that writes a difference with its sign, and with three decimals if the metric has three."""
    return partial(_formatted, "+.3f" if style(metric).format.endswith(".3f") else "+.2g")


def columns(comparison: Comparison) -> list[Column]:
    """Return the columns that have values; first the metric that ranks the rows, with its interval and difference."""
    metrics = [metric_column(name) for name in comparison.metrics]
    ranked = next((row.rank_metric for row in comparison.rows if row.rank_metric), None)
    first = replace(next((column for column in metrics if column.name == ranked), NO_METRIC), drop=0, wide=False)
    reference = f"vs {clean(comparison.against)}" if comparison.against else "vs best"
    statistics = (
        Column("95 %", "interval", interval_text, drop=1),
        Column(reference, "difference", difference_text(first.name), drop=6),
        Column("p", "p_value", p_value_text, drop=7),
    )
    candidates = [first, *statistics, *(column for column in metrics if column.name != first.name), *COSTS]
    return [column for column in candidates if column is first or any(_has(row, column) for row in comparison.rows)]


def _has(row: Row, column: Column) -> bool:
    if column.name == "seeds":
        return len(row.seeds) > 1
    return value(row, column) is not None


def value(row: Row, column: Column) -> Any:
    """Return the value of a row in a column; None if it has none."""
    if column.name == "share":
        return 100 * row.trainable_params / row.total_params if row.method and row.total_params else None
    if column.name == "interval":
        return row.intervals.get(row.rank_metric or "")
    if column.name == "difference" and row.p_value is None:
        return None
    return row.value(column.name)


def cell(row: Row, column: Column, *, failed: bool = False) -> str:
    """Return the text of a row in a column.

    Args:
        row: the row.
        column: the column.
        failed: whether this column says ``failed`` if the row has no values.
    """
    if row.status == "failed" and not row.metrics:
        rate = _learning_rate(row.learning_rate) if row.learning_rate else "-"
        if failed:
            return "failed"
        return {"learning_rate": rate, "quantization": clean(row.quantization)}.get(column.name, "-")
    shown = value(row, column)
    text = "-" if shown is None else clean(column.show(shown))
    if column.name == "trainable_params" and shown is not None and misses(row.trainable_params, row.budget):
        text = f"{text}!"
    return text


def mark(comparison: Comparison, block: Block, row: Row, column: Column) -> str:
    """Return ``*`` for the best value of a column, ``=`` for a value tied with it, and nothing for most others.

    The metric that ranks the rows gets ``~`` in a row that is not ranked.

    A metric's value is only marked if the scores of its examples show that it is best or tied.
    """
    if not row.ranked:
        return UNRANKED if column.name == row.rank_metric else ""
    if column.name in row.metrics:
        tied = row.ties.get(column.name)
        # A single row is not marked, because there is no row that it could be better than.
        if tied is None or sum(column.name in compared.metrics for compared in block.rows) < 2:
            return ""
        # Two scores that look the same may still be known to differ, so compare them with all their digits.
        return TIED if tied else BEST if _is_best(comparison, block.rows, row, replace(column, show=repr)) else ""
    if row.method is None or not row.metrics or block.costs_differ:
        return ""  # the untouched base model has no training costs to compare
    if column.name in ("trainable_params", "share") and row.budget is not None:
        return ""  # the recipe asked for this size
    return BEST if _is_best(comparison, [method for method in block.rows if method.method], row, column) else ""


def _is_best(comparison: Comparison, rows: Sequence[Row], row: Row, column: Column) -> bool:
    choose, own = comparison.better(column.name), value(row, column)
    values = [
        known
        for compared in rows
        if compared.metrics and compared.ranked and (known := value(compared, column)) is not None
    ]
    return bool(choose and values and own is not None and column.show(own) == column.show(choose(values)))


def marked(comparison: Comparison, column: Column) -> bool:
    """Tell whether any value of a column is marked."""
    return any(mark(comparison, block, row, column) for block in comparison.blocks for row in block.rows)
