"""The columns of a comparison: their titles, where their values are, how they read, and which value stands out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from adapterzoo.comparison import Block, Comparison
from adapterzoo.metrics.registry import style, styles
from adapterzoo.prepare.budget import misses
from adapterzoo.results.row import Interval, Row
from adapterzoo.terminal import clean, count, duration, size

BEST = "*"
TIED = "="


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, where its values are, and how they read."""

    title: str
    name: str
    show: Callable[[Any], str]
    drop: int = 0
    """what goes first in a narrow terminal has the highest number; 0 always stays"""
    wide: bool = False
    """only where there is room to spare"""
    explanation: str = ""
    """a line below the table, where the title does not say it all"""


def _rate(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


# Stands first where no row has a metric: there it is said that a cell failed.
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
        explanation="cost: of tuning, training and measuring all seeds",
    ),
    Column("lr", "learning_rate", _rate, drop=4),
    Column("quant.", "quantization", str, drop=6),
    Column("seeds", "seeds", lambda value: str(len(value)), wide=True),
)


def names_by_title() -> dict[str, str]:
    """Return the names of the columns that rows can be ordered by, by the titles that the table shows."""
    metrics = {style.title: name for name, style in styles().items()}
    return metrics | {column.title: column.name for column in COSTS if column.name != "share"}


def metric_column(name: str) -> Column:
    """Return the column of a metric, whoever brought it."""
    found = style(name)
    show = partial(_formatted, found.format)
    return Column(clean(found.title), name, show, found.drop, found.wide, clean(found.explanation))


def _formatted(specification: str, value: float) -> str:
    return format(value, specification)


def interval_text(found: Interval) -> str:
    """``.66-.76``: two digits after the point, or as many as tell the ends apart."""
    low, high = found
    digits = 2 if max(map(abs, found)) < 10 else 1
    while digits < 6 and high - low < 2 * 10.0**-digits:
        digits += 1
    ends = [f"{end:.{digits}f}" for end in found]
    if max(map(abs, found)) <= 1:
        ends = [end.replace("0.", ".", 1) for end in ends]
    return f"{ends[0]} to {ends[1]}" if low < 0 else "-".join(ends)


def difference_text(metric: str) -> Callable[[float], str]:
    """Return how a difference of a metric's values is written: with its sign, and three decimals where they have."""
    return partial(_formatted, "+.3f" if style(metric).format.endswith(".3f") else "+.2g")


def columns(comparison: Comparison) -> list[Column]:
    """All that there are values for; the metric that decides the order, and what is known of it, first."""
    metrics = [metric_column(name) for name in comparison.metrics]
    ranked = next((row.rank_metric for row in comparison.rows if row.rank_metric), None)
    first = replace(next((column for column in metrics if column.name == ranked), NO_METRIC), drop=0, wide=False)
    reference = f"vs {clean(comparison.against)}" if comparison.against else "vs best"
    known = (
        Column("95 %", "interval", interval_text, drop=1),
        Column(reference, "difference", difference_text(first.name), drop=6),
        Column("p", "p_value", _p, drop=7),
    )
    shown = [first, *known, *(one for one in metrics if one.name != first.name), *COSTS]
    return [one for one in shown if one is first or any(_present(row, one) for row in comparison.rows)]


def _present(row: Row, column: Column) -> bool:
    if column.name == "seeds":
        return len(row.seeds) > 1
    return value(row, column) is not None


def value(row: Row, column: Column) -> Any:
    """What a row has in a column; None where it has nothing."""
    if column.name == "share":
        return 100 * row.trainable_params / row.total_params if row.method and row.total_params else None
    if column.name == "interval":
        return row.intervals.get(row.rank_metric or "")
    if column.name == "difference" and row.p_value is None:
        return None
    return row.value(column.name)


def cell(row: Row, column: Column, *, failed: bool = False) -> str:
    """A cell's text.

    Args:
        row: of which.
        column: in which.
        failed: this is the column in which a row without values says so.
    """
    if row.status == "failed" and not row.metrics:
        rate = _rate(row.learning_rate) if row.learning_rate else "-"
        if failed:
            return "failed"
        return {"learning_rate": rate, "quantization": clean(row.quantization)}.get(column.name, "-")
    found = value(row, column)
    text = "-" if found is None else clean(column.show(found))
    if column.name == "trainable_params" and found is not None and misses(row.trainable_params, row.budget):
        text = f"{text}!"
    return text


def mark(comparison: Comparison, block: Block, row: Row, column: Column) -> str:
    """``*`` at the best value of a column, ``=`` at what cannot be told from it, nothing elsewhere.

    Of a metric nothing is best that has not been seen to be: where answers are not kept, there is no mark.
    """
    if column.name in row.metrics:
        tied = row.ties.get(column.name)
        # One row has nobody to be better than.
        if tied is None or len([other for other in block.rows if column.name in other.metrics]) < 2:
            return ""
        return TIED if tied else BEST if _is_best(comparison, block.rows, row, column) else ""
    if row.method is None or not row.metrics or block.costs_differ:
        return ""  # the base is trained for nothing: its cost is no merit
    if column.name in ("trainable_params", "share") and row.budget is not None:
        return ""  # nor is the size that all were asked for
    return BEST if _is_best(comparison, [one for one in block.rows if one.method], row, column) else ""


def _is_best(comparison: Comparison, rows: Sequence[Row], row: Row, column: Column) -> bool:
    choose, mine = comparison.better(column.name), value(row, column)
    values = [found for one in rows if one.metrics and (found := value(one, column)) is not None]
    return bool(choose and values and mine is not None and column.show(mine) == column.show(choose(values)))


def marked(comparison: Comparison, column: Column) -> bool:
    """Whether any cell of a column has a mark, for which the others leave room."""
    return any(mark(comparison, block, row, column) for block in comparison.blocks for row in block.rows)
