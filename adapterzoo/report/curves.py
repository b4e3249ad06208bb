"""How the loss of each method fell, plotted in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console

from adapterzoo.comparison import Comparison
from adapterzoo.errors import UserError
from adapterzoo.report.canvas import Axis, Entry, Plot, legend
from adapterzoo.report.terminal import head
from adapterzoo.results.row import Row

# Of a curve with more points, means are drawn.
MANY = 60
# How often a curve's letter stands on it.
LETTERS = 4

Curve = list[tuple[float, float]]


def render(comparison: Comparison, console: Console) -> None:
    """Plot the training loss of each row's first seed.

    Raises:
        UserError: no row has kept it.
    """
    if not any(_losses(row) for row in comparison.rows):
        raise UserError.at("--curves", "no row has kept the loss of its training.")
    for block in comparison.blocks:
        rows = [row for row in block.rows if _losses(row)]
        if rows:
            head(block, console)
            said = ["failed" if row.status == "failed" else "" for row in rows]
            _plot_losses([*map(Entry, rows, range(len(rows)), said)], console)


def _losses(row: Row) -> Curve:
    pairs = [(entry.get("step", n), entry.get("loss", math.nan)) for n, entry in enumerate(row.history, start=1)]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def _means(curve: Curve, around: int) -> Curve:
    """Not more points than can be seen; the loss of each is a mean of it and of so many before and after."""
    losses = [loss for _, loss in curve]
    some = range(0, len(curve), len(curve) // 400 or 1)
    return [(curve[n][0], fmean(losses[max(0, n - around) : n + around + 1])) for n in some]


def _plot_losses(shown: Sequence[Entry], console: Console) -> None:
    found = [_losses(one.row) for one in shown]
    longest = max(map(len, found))
    around = longest // 25 if longest > MANY else 0
    lines = [_means(curve, around) for curve in found]
    x = Axis.over([step for line in lines for step, _ in line], lambda step: f"{step:,.0f}", log=False)
    y = Axis.over([loss for line in lines for _, loss in line], lambda loss: f"{loss:g}", log=True)
    plot = Plot(x, y, console)
    _put_curves(plot, shown, lines)
    what = f", means of {2 * around + 1} points" if around else ""
    plot.show(f"training loss{what}", "step")
    last = [line[-1][1] for line in lines]
    legend(shown, ["last loss"], [[f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.2g}"] for loss in last], console)


def _put_curves(plot: Plot, shown: Sequence[Entry], lines: Sequence[Curve]) -> None:
    """The lines, their letters here and there on them, and once more beside where they end."""
    ends = [round(plot.row(line[-1][1])) for line in lines]
    plot.margin = min(max(map(ends.count, ends)) + 1, plot.columns // 4)
    for one, line in reversed([*zip(shown, lines, strict=True)]):
        plot.put([plot.column(step) for step, _ in line], [plot.row(loss) for _, loss in line], "braille", one.colour)
    for n, (one, line) in enumerate(zip(shown, lines, strict=True)):
        for part in range(LETTERS):
            step, loss = line[int(len(line) * (part + (n + 0.5) / len(lines)) / LETTERS)]
            plot.put([round(plot.column(step))], [round(plot.row(loss))], one.letter, one.colour)
        beside = plot.columns - plot.margin + 1 + ends[:n].count(ends[n])
        if beside < plot.columns:
            plot.put([beside], [ends[n]], one.letter, one.colour)
