"""Plots in the terminal: what a score costs, and how the loss fell.

Where things stand is worked out here, in cells; plotext draws them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from string import ascii_letters, digits
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapterzoo.comparison import NO_COLUMNS, Block, Comparison
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.ranking import HIGHER, LOWER
from adapterzoo.report import notes
from adapterzoo.report.columns import COSTS, Column, interval_text, metric_column, value
from adapterzoo.row import Row
from adapterzoo.terminal import clean, duration, safe

LETTERS = ascii_letters + digits
HEIGHT = 20
# Of xterm's 256: told apart on a dark and on a light ground.
COLOURS = (39, 208, 35, 170, 141, 37, 167, 136)
DIRECTION = {HIGHER: ", higher is better", LOWER: ", lower is better", None: ""}
# By how many cells a point may stand aside, nearest first.
ASIDE = (0, 1, -1, 2, -2, 3, -3)
# Of a curve with more points, means are drawn.
MANY = 60

Show = Callable[[float], str]


@dataclass(frozen=True)
class _Axis:
    """From where to where; with ``log``, of the logarithm."""

    low: float
    high: float
    log: bool
    show: Show

    @classmethod
    def over(cls, values: Sequence[float], show: Show, *, log: bool = True) -> _Axis:
        """All of the values; the logarithm only where they are positive, and the last ten times the first."""
        log = log and min(values) > 0 and max(values) > 10 * min(values)
        low, high = (math.log10(end) if log else end for end in (min(values), max(values)))
        room = (high - low) / 20 or abs(high) / 10 or 1.0
        return cls(low - room, high + room, log, show)

    def at(self, value: float, cells: int) -> float:
        """How many cells from the axis's beginning."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low) * (cells - 1)

    def ticks(self, most: int) -> dict[float, str]:
        """Round values and how they read."""
        low, high = (10**end if self.log else end for end in (self.low, self.high))
        unit, times = (60, (1, 2, 5, 10, 20, 30)) if self.show is duration else (10, (1, 2, 5))
        steps = sorted(n * float(unit) ** k for k in range(-12, 13) for n in times)
        if self.log:
            found = [step for step in steps if low <= step <= high]
            found = found[:: -(-len(found) // most) or 1]
        else:
            step = next((step for step in steps if (high - low) / step <= most), steps[-1])
            found = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        texts = [self.show(one) for one in found]
        return dict(zip(found, texts if len(set(texts)) == len(texts) else [f"{one:g}" for one in found], strict=True))


class _Plot:
    """A plot of so many cells, on which signs are put, later ones over earlier ones."""

    def __init__(self, x: _Axis, y: _Axis, console: Console) -> None:
        self.x, self.y, self.console = x, y, console
        height = min(HEIGHT, max(8, console.height - 4)) if console.is_terminal else HEIGHT
        self.rows = height - 2
        self.ticks = y.ticks(self.rows // 3)
        self.cells = max(10, console.width - 1 - max(map(len, self.ticks.values()), default=0))
        self.put: list[tuple[Sequence[float], Sequence[float], str, int | str]] = []

    def row(self, value: float) -> int:
        """Counted from below."""
        return round(self.y.at(value, self.rows))

    def column(self, value: float) -> int:
        return round(self.x.at(value, self.cells))

    def show(self, above: str, below: str) -> None:
        self.console.print(safe(above + ", log scale" * self.y.log, "bold"))
        colourless = not self.console.is_terminal or self.console.no_color
        for line in self._drawn().string(colorless=colourless).split("\n"):
            self.console.print(Text.from_ansi(line.rstrip()), soft_wrap=True)
        self.console.print(safe(below + ", log scale" * self.x.log, "bold"), justify="right")

    def _drawn(self) -> Any:
        import plotext

        figure = plotext.figure
        # The process has only one: what somebody else has on it is not for this plot.
        figure.clear()
        plotext.terminal.limit(False, False)
        try:
            figure.theme("simple").plot_size(self.console.width, self.rows + 2)
            figure.axes(False, axis="x", side="upper").axes(False, axis="y", side="right")
            for name, axis, cells, most in (("x", self.x, self.cells, self.cells // 12), ("y", self.y, self.rows, 6)):
                ticks = axis.ticks(most)
                places = [axis.at(one, cells) for one in ticks]
                figure.ruler(name).lim(0, cells - 1).ticks(places, labels=list(ticks.values()))
            for xs, ys, sign, colour in self.put:
                signal = figure.signal(xs, ys, marker=plotext.marker(sign, pixel=colour))
                figure.draw(signal.lines(len(xs) > 1))
            return figure.build()
        finally:
            figure.clear()
            figure.theme()
            plotext.terminal.limit()


@dataclass
class _Shown:
    """A row in a plot, and its line in the legend."""

    row: Row
    letter: str
    colour: int
    said: str = ""


def _shown(rows: Iterable[Row]) -> list[_Shown]:
    """Each with its letter and its colour, as long as there are any."""
    letters = dict(enumerate(LETTERS))
    return [_Shown(row, letters.get(n, "+"), COLOURS[n % len(COLOURS)]) for n, row in enumerate(rows)]


def _legend(shown: Sequence[_Shown], columns: Sequence[Column], console: Console) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("method", overflow="fold")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in shown:
        found = [value(one.row, column) for column in columns]
        cells = ["-" if known is None else column.show(known) for column, known in zip(columns, found, strict=True)]
        label = safe(clean(one.row.label).replace("\t", " "))
        table.add_row(Text(one.letter, f"bold color({one.colour})"), label, *map(safe, cells), safe(one.said))
    console.print(table)


def pareto(comparison: Comparison, column: str, console: Console) -> None:
    """Plot the score of each method, with its interval, against what it costs.

    Raises:
        UserError: there is no such column, or no method has a number in it.
    """
    cost = _cost(comparison, column)
    for block in comparison.blocks:
        if block.differs:
            console.print(safe("\n" + notes.apart(block), "bold"), soft_wrap=not console.is_terminal)
        scored = [row for row in block.rows if row.rank_metric and _number(row, metric_column(row.rank_metric)) is not None]
        rows = [row for row in scored if row.method is None or _number(row, cost) is not None]
        if any(row.method for row in rows):
            _plot_costs(comparison, _shown(rows), cost, console)
        for row in (row for row in block.rows if row not in rows):
            why = "failed" if row.status == "failed" else f"has no {cost.title if row in scored else 'score'}"
            console.print(safe(f"not in the plot: {row.label} ({why})"), soft_wrap=True)


def _cost(comparison: Comparison, name: str) -> Column:
    """The column of that name.

    Raises:
        UserError: there is no such column, or no method has a number in it.
    """
    methods = [row for row in comparison.rows if row.method and row.rank_metric in row.metrics]
    known = {*comparison.metrics, *Row.__dataclass_fields__} - NO_COLUMNS
    columns = {one: _column(one, comparison.metrics) for one in known}
    usable = [one for one, column in columns.items() if any(_number(row, column) is not None for row in methods)]
    if name not in known:
        raise UserError.at(f"--pareto {name}", "there is no such column.", did_you_mean(name, usable))
    if name not in usable:
        cure = "Give --price." if name == "cost" else f"There is: {', '.join(sorted(usable)) or 'none'}."
        raise UserError.at(f"--pareto {name}", "no method has a score and a number there.", cure)
    return columns[name]


def _column(name: str, metrics: Sequence[str]) -> Column:
    if name in metrics:
        return metric_column(name)
    show: Show = duration if name.endswith("_seconds") else lambda number: f"{number:.3g}"
    return next((one for one in COSTS if one.name == name), Column(name.replace("_", " "), name, show))


def _number(row: Row, column: Column) -> float | None:
    found = value(row, column)
    number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if number else None


def _plot_costs(comparison: Comparison, shown: Sequence[_Shown], cost: Column, console: Console) -> None:
    ...
