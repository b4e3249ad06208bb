"""A plot of the score against a cost, in the terminal, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from rich.console import Console

from adapterzoo.comparison.comparison import NO_COLUMNS, Block, Comparison
from adapterzoo.comparison.order import HIGHER, LOWER
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.report.canvas import Axis, Entry, Plot, legend
from adapterzoo.report.columns import COSTS, Column, cell, interval_text, metric_column, value
from adapterzoo.report.pareto_front import pareto_front
from adapterzoo.report.table import head
from adapterzoo.results.row import Row
from adapterzoo.terminal import clean, duration, safe, tell

# Note in the legend for a base model that is drawn as a line through the plot.
LINE = "the line"
DIRECTION = {HIGHER: ", higher is better", LOWER: ", lower is better", None: ""}
# Columns by which a point may be moved so that it hides no other point, in the order in which they are tried.
SHIFTS = (0, 1, -1, 2, -2, 3, -3)
# In a narrower terminal the legend leaves out the intervals.
MIN_WIDTH_FOR_INTERVALS = 48

Better = Callable[..., Any] | None
"""the function that picks the better value, ``max`` or ``min``; None if no value is better"""


@dataclass
class Point(Entry):
    """A row in the plot, at its cost and its score."""

    cost: float = 0.0
    score: float = 0.0
    low: float = 0.0
    """low end of the score's interval"""
    high: float = 0.0
    """high end of the score's interval"""

    def rows(self, plot: Plot) -> tuple[int, int, int]:
        """Return the rows of the plot at which the interval's low end, the score and the interval's high end are."""
        low, score, high = (round(plot.row(value)) for value in (self.low, self.score, self.high))
        return low, score, high


def render(comparison: Comparison, column: str, console: Console) -> None:
    """Plot the score of each method, with its interval, against a cost.

    Raises:
        UserError: there is no such column, or no method has a number in it.
    """
    cost = _cost(comparison, column)
    for block in comparison.blocks:
        head(block, console)
        points, machines = _points(block, cost), _machines(block, cost)
        if points:
            _plot_points(comparison, points, cost, console, ranked=not machines)
        for row in (row for row in block.rows if row not in [point.row for point in points]):
            why = "failed" if row.status == "failed" else f"no {'score' if _score(row) is None else clean(cost.name)}"
            tell(console, f"not in the plot: {row.label} ({why})")
        if points and machines:
            console.print(safe(f"no front: times and memory were measured on different machines ({machines})", "dim"))


def _machines(block: Block, cost: Column) -> str:
    """Return what differs between the machines of a block, if the cost depends on the machine; empty otherwise."""
    of_machine = cost.name in ("cost", "peak_memory_bytes") or "second" in cost.name
    return "; ".join(block.costs_differ) if of_machine else ""


def _cost(comparison: Comparison, name: str) -> Column:
    """Return the column of the cost to plot.

    Raises:
        UserError: there is no such column, or no method has a number in it.
    """
    known = {*comparison.metrics, *Row.__dataclass_fields__} - NO_COLUMNS
    columns = {column: _column(column, comparison.metrics) for column in known}
    scored = [row for row in comparison.rows if row.method and _score(row) is not None]
    usable = [column for column in known if any(_number(row, columns[column]) is not None for row in scored)]
    usable = [column for column in usable if column not in {row.rank_metric for row in scored}]
    if name not in known:
        raise UserError.at(f"--pareto {name}", "there is no such column.", did_you_mean(name, usable))
    if name not in usable:
        hint = f"Choose from: {', '.join(sorted(usable))}." if usable else ""
        hint = "Give --price too." if name == "cost" and usable else hint
        raise UserError.at(f"--pareto {name}", "no method has both a score and a number in this column.", hint)
    return columns[name]


def _column(name: str, metrics: Sequence[str]) -> Column:
    if name in metrics:
        return metric_column(name)
    other = Column(name.replace("_", " "), name, duration if name.endswith("_seconds") else lambda n: f"{n:.3g}")
    return next((column for column in COSTS if column.name == name), other)


def _number(row: Row, column: Column) -> float | None:
    """Return the value of a row in a column; None if it is not a finite number."""
    number = value(row, column)
    usable = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    return float(number) if usable else None


def _score(row: Row) -> float | None:
    return _number(row, metric_column(row.rank_metric)) if row.rank_metric else None


def _points(block: Block, cost: Column) -> list[Point]:
    """Return the points of the methods that have a score and a cost, and of the base model, whose cost is 0.

    If no method has both, there are no points.
    """
    points: list[Point] = []
    for row in block.rows:
        score, costs = _score(row), _number(row, cost) if row.method else 0.0
        if score is not None and costs is not None:
            low, high = row.intervals.get(row.rank_metric or "", (score, score))
            note = "a seed failed" if row.status == "failed" else "" if row.ranked else "not ranked"
            points.append(Point(row, len(points), note, costs, score, low, high))
    return points if any(point.row.method for point in points) else []


def _plot_points(
    comparison: Comparison, points: Sequence[Point], cost: Column, console: Console, *, ranked: bool
) -> None:
    score = metric_column(points[0].row.rank_metric or "")
    methods = [point for point in points if point.row.method]
    bases = [point for point in points if not point.row.method]
    better, cheaper = comparison.better(score.name), comparison.better(cost.name)
    if cost.show is duration and max(point.cost for point in methods) < 10:
        cost = replace(cost, show=lambda seconds: f"{seconds:.2g}s")
    y = Axis.over(_heights(methods, bases), score.show, log=better is LOWER)
    plot = Plot(Axis.over([point.cost for point in methods], cost.show, log=True), y, console)
    _put_bases(plot, [base for base in bases if base.note == LINE])
    _put_methods(
        plot, methods, _front([point for point in methods if point.row.ranked], better, cheaper) if ranked else []
    )
    plot.show(score.title + DIRECTION[better], cost.title + DIRECTION[cheaper])
    columns = [cost, score]
    if console.width >= MIN_WIDTH_FOR_INTERVALS and any(point.row.intervals for point in points):
        columns.append(Column("95 %", "interval", interval_text))
    cells = [[cell(point.row, column) for column in columns] for point in points]
    legend(points, [column.title for column in columns], cells, console)


def _heights(methods: Sequence[Point], bases: Sequence[Point]) -> list[float]:
    """Return the scores that the y axis must include, and note in each base whether it is in the plot.

    Included are the methods with their intervals, and a base that is not far from them.
    """
    ends = [end for point in methods for end in (point.low, point.score, point.high)]
    near = (max(ends) - min(ends)) / 2
    for base in bases:
        side = "above" if base.score > max(ends) + near else "below" if base.score < min(ends) - near else ""
        base.note = f"{side} plot" if side else LINE
    return [*ends, *(base.score for base in bases if base.note == LINE)]


def _front(methods: Sequence[Point], better: Better, cheaper: Better) -> list[Point]:
    """Return the points on the Pareto front, and note in each that it is there."""
    if better is None or cheaper is None:
        return []
    score_sign, cost_sign = (-1 if pick is HIGHER else 1 for pick in (better, cheaper))
    places = {i: (cost_sign * point.cost, score_sign * point.score) for i, point in enumerate(methods)}
    on_front = [methods[i] for i in pareto_front(places)]
    for point in on_front:
        point.note = ", ".join(filter(None, ("front", point.note)))
    return on_front


def _put_bases(plot: Plot, bases: Sequence[Point]) -> None:
    for base in bases:
        plot.put([0, plot.columns - 1], [base.rows(plot)[1]] * 2, "┄")
    for number, base in enumerate(bases):
        plot.put([plot.columns - 1 - number], [base.rows(plot)[1]], base.letter, base.colour)


def _put_methods(plot: Plot, methods: Sequence[Point], front: Sequence[Point]) -> None:
    """Put the front, the intervals and the letters on the plot; the letter of the best method is put last."""
    columns = dict(zip(map(id, methods), _free_columns(plot, methods), strict=True))
    for point, following in pairwise(front):
        column, next_column = columns[id(point)], columns[id(following)]
        row, next_row = point.rows(plot)[1], following.rows(plot)[1]
        plot.put([column, next_column, next_column], [row, row, next_row], "·")
    for point in reversed(methods):
        low, _, high = point.rows(plot)
        plot.put([columns[id(point)]] * 2, [low, high], "│", point.colour)
    for point in reversed(methods):
        plot.put([columns[id(point)]], [point.rows(plot)[1]], point.letter, point.colour)


def _free_columns(plot: Plot, methods: Sequence[Point]) -> list[int]:
    """Return the column of each point, moved aside where it would hide another point or its interval."""
    taken: list[tuple[int, int, int, int]] = []
    for point in methods:
        low, row, high = point.rows(plot)
        near = [column for shift in SHIFTS if 0 <= (column := round(plot.column(point.cost)) + shift) < plot.columns]
        free = [
            column
            for column in near
            if not any(column == other and low <= top and bottom <= high for other, bottom, _, top in taken)
        ]
        # If the intervals overlap in every column, use a column in which at least the letters do not.
        free += [c for c in near if not any((c, row) == (other, other_row) for other, _, other_row, _ in taken)]
        point.note += "" if free else " (hidden)"
        taken.append(((free or near)[0], low, row, high))
    return [column for column, *_ in taken]
