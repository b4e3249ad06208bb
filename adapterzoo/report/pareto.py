"""What a score costs, plotted in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from rich.console import Console

from adapterzoo.comparison import NO_COLUMNS, Block, Comparison
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.report.canvas import Axis, Entry, Plot, legend
from adapterzoo.report.columns import COSTS, Column, cell, interval_text, metric_column, value
from adapterzoo.report.front import front
from adapterzoo.report.terminal import head
from adapterzoo.results.row import HIGHER, LOWER, Row
from adapterzoo.terminal import clean, duration, safe, tell

DIRECTION = {HIGHER: ", higher is better", LOWER: ", lower is better", None: ""}
# By how many cells a point may stand aside, nearest first.
ASIDE = (0, 1, -1, 2, -2, 3, -3)
# Where the legend is narrower, the intervals are in the plot alone.
ROOM = 48

Better = Callable[..., Any] | None


@dataclass
class Point(Entry):
    """A row's score, with the ends of its interval, at what it costs."""

    cost: float = 0.0
    score: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def rows(self, plot: Plot) -> tuple[int, int, int]:
        """Where the interval begins, the score is, and the interval ends."""
        low, score, high = (round(plot.row(value)) for value in (self.low, self.score, self.high))
        return low, score, high


def render(comparison: Comparison, column: str, console: Console) -> None:
    """Plot the score of each method, with its interval, against what it costs.

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
            console.print(safe(f"no front: times and memory are of different machines ({machines})", "dim"))


def _machines(block: Block, cost: Column) -> str:
    """Why nothing is better or worse in a cost, where it was seen on different machines."""
    theirs = cost.name in ("cost", "peak_memory_bytes") or "second" in cost.name
    return "; ".join(block.costs_differ) if theirs else ""


def _cost(comparison: Comparison, name: str) -> Column:
    """The column of that name.

    Raises:
        UserError: there is no such column, or no method has a number in it.
    """
    known = {*comparison.metrics, *Row.__dataclass_fields__} - NO_COLUMNS
    found = {one: _column(one, comparison.metrics) for one in known}
    scored = [row for row in comparison.rows if row.method and _score(row) is not None]
    usable = [one for one in known if any(_number(row, found[one]) is not None for row in scored)]
    usable = [one for one in usable if one not in {row.rank_metric for row in scored}]
    if name not in known:
        raise UserError.at(f"--pareto {name}", "there is no such column.", did_you_mean(name, usable))
    if name not in usable:
        there = f"Choose from: {', '.join(sorted(usable))}." if usable else ""
        hint = "Give --price too." if name == "cost" and usable else there
        raise UserError.at(f"--pareto {name}", "no method has a number there beside its score.", hint)
    return found[name]


def _column(name: str, metrics: Sequence[str]) -> Column:
    if name in metrics:
        return metric_column(name)
    other = Column(name.replace("_", " "), name, duration if name.endswith("_seconds") else lambda n: f"{n:.3g}")
    return next((one for one in COSTS if one.name == name), other)


def _number(row: Row, column: Column) -> float | None:
    found = value(row, column)
    usable = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if usable else None


def _score(row: Row) -> float | None:
    return _number(row, metric_column(row.rank_metric)) if row.rank_metric else None


def _points(block: Block, cost: Column) -> list[Point]:
    """Of the methods that have a score and a cost, and beside them of the untouched base, whose cost is none."""
    found: list[Point] = []
    for row in block.rows:
        score, costs = _score(row), _number(row, cost) if row.method else 0.0
        if score is not None and costs is not None:
            low, high = row.intervals.get(row.rank_metric or "", (score, score))
            said = "a seed failed" if row.status == "failed" else ""
            found.append(Point(row, len(found), said, costs, score, low, high))
    return found if any(one.row.method for one in found) else []


def _plot_points(
    comparison: Comparison, points: Sequence[Point], cost: Column, console: Console, *, ranked: bool
) -> None:
    score = metric_column(points[0].row.rank_metric or "")
    methods = [one for one in points if one.row.method]
    bases = [one for one in points if not one.row.method]
    better, cheaper = comparison.better(score.name), comparison.better(cost.name)
    if cost.show is duration and max(one.cost for one in methods) < 10:
        cost = replace(cost, show=lambda seconds: f"{seconds:.2g}s")
    y = Axis.over(_heights(methods, bases), score.show, log=better is LOWER)
    plot = Plot(Axis.over([one.cost for one in methods], cost.show, log=True), y, console)
    _put_bases(plot, [one for one in bases if one.said == "the line"])
    _put_methods(plot, methods, _front(methods, better, cheaper) if ranked else [])
    plot.show(score.title + DIRECTION[better], cost.title + DIRECTION[cheaper])
    columns = [cost, score]
    if console.width >= ROOM and any(one.row.intervals for one in points):
        columns.append(Column("95 %", "interval", interval_text))
    legend(points, [one.title for one in columns], [[cell(one.row, c) for c in columns] for one in points], console)


def _heights(methods: Sequence[Point], bases: Sequence[Point]) -> list[float]:
    """What the y axis is to hold: the methods with their intervals, and the base where it is not far from them."""
    ends = [end for one in methods for end in (one.low, one.score, one.high)]
    near = (max(ends) - min(ends)) / 2
    for one in bases:
        side = "above" if one.score > max(ends) + near else "below" if one.score < min(ends) - near else ""
        one.said = f"{side} plot" if side else "the line"
    return [*ends, *(one.score for one in bases if one.said == "the line")]


def _front(methods: Sequence[Point], better: Better, cheaper: Better) -> list[Point]:
    if better is None or cheaper is None:
        return []
    up, down = (-1 if choose is HIGHER else 1 for choose in (better, cheaper))
    places = {i: (down * one.cost, up * one.score) for i, one in enumerate(methods)}
    found = [methods[i] for i in front(places)]
    for one in found:
        one.said = ", ".join(filter(None, ("front", one.said)))
    return found


def _put_bases(plot: Plot, bases: Sequence[Point]) -> None:
    for one in bases:
        plot.put([0, plot.columns - 1], [one.rows(plot)[1]] * 2, "┄")
    for number, one in enumerate(bases):
        plot.put([plot.columns - 1 - number], [one.rows(plot)[1]], one.letter, one.colour)


def _put_methods(plot: Plot, methods: Sequence[Point], front: Sequence[Point]) -> None:
    """First the front, then the intervals, then the letters; that of the best is put last."""
    columns = dict(zip(map(id, methods), _aside(plot, methods), strict=True))
    for one, other in pairwise(front):
        here, there = columns[id(one)], columns[id(other)]
        plot.put([here, there, there], [one.rows(plot)[1], one.rows(plot)[1], other.rows(plot)[1]], "·")
    for one in reversed(methods):
        low, _, high = one.rows(plot)
        plot.put([columns[id(one)]] * 2, [low, high], "│", one.colour)
    for one in reversed(methods):
        plot.put([columns[id(one)]], [one.rows(plot)[1]], one.letter, one.colour)


def _aside(plot: Plot, methods: Sequence[Point]) -> list[int]:
    """The column of each, beside its own where it would hide another or that one's interval."""
    taken: list[tuple[int, int, int, int]] = []
    for one in methods:
        low, row, high = one.rows(plot)
        near = [column for by in ASIDE if 0 <= (column := round(plot.column(one.cost)) + by) < plot.columns]
        free = [c for c in near if not any(c == other and low <= b and a <= high for other, a, _, b in taken)]
        free += [c for c in near if not any((c, row) == (other, there) for other, _, there, _ in taken)]
        one.said += "" if free else " (hidden)"
        taken.append(((free or near)[0], low, row, high))
    return [column for column, *_ in taken]
