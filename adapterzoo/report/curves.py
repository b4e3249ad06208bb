"""A plot of each method's training loss in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console

from adapterzoo.comparison import Comparison
from adapterzoo.errors import UserError
from adapterzoo.report.canvas import Axis, Entry, Plot, legend
from adapterzoo.report.table import head
from adapterzoo.results.row import Row

# A curve with more points than this is smoothed.
MAX_POINTS = 60
# Number of times that the letter of a curve is drawn on it.
LETTERS = 4

Curve = list[tuple[float, float]]
"""(step, loss) of each point"""


def render(comparison: Comparison, console: Console) -> None:
    """Plot the training loss of each row's first seed.

    Raises:
        UserError: no row has kept its training loss.
    """
    if not any(_losses(row) for row in comparison.rows):
        raise UserError.at("--curves", "no row has kept its training loss.")
    for block in comparison.blocks:
        rows = [row for row in block.rows if _losses(row)]
        if rows:
            head(block, console)
            notes = ["failed" if row.status == "failed" else "" for row in rows]
            _plot_losses([*map(Entry, rows, range(len(rows)), notes)], console)


def _losses(row: Row) -> Curve:
    """Return the points of a row's curve, without losses that are not finite numbers."""
    pairs = [(entry.get("step", n), entry.get("loss", math.nan)) for n, entry in enumerate(row.history, start=1)]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def _means(curve: Curve, around: int) -> Curve:
    """Return at most 800 points of a curve, each with the mean of up to ``around`` neighbours per side."""
    losses = [loss for _, loss in curve]
    indices = range(0, len(curve), len(curve) // 400 or 1)
    return [(curve[n][0], fmean(losses[max(0, n - around) : n + around + 1])) for n in indices]


def _plot_losses(entries: Sequence[Entry], console: Console) -> None:
    curves = [_losses(entry.row) for entry in entries]
    longest = max(map(len, curves))
    around = longest // 25 if longest > MAX_POINTS else 0
    lines = [_means(curve, around) for curve in curves]
    x = Axis.over([step for line in lines for step, _ in line], lambda step: f"{step:,.0f}", log=False)
    y = Axis.over([loss for line in lines for _, loss in line], lambda loss: f"{loss:g}", log=True)
    plot = Plot(x, y, console)
    _put_curves(plot, entries, lines)
    what = f", means of {2 * around + 1} points" if around else ""
    plot.show(f"training loss{what}", "step")
    last = [line[-1][1] for line in lines]
    legend(entries, ["last loss"], [[f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.2g}"] for loss in last], console)


def _put_curves(plot: Plot, entries: Sequence[Entry], lines: Sequence[Curve]) -> None:
    """Put the lines on the plot, with their letters on them and once more to the right of their ends."""
    ends = [round(plot.row(line[-1][1])) for line in lines]
    plot.margin = min(max(map(ends.count, ends)) + 1, plot.columns // 4)
    for entry, line in reversed([*zip(entries, lines, strict=True)]):
        columns, rows = [plot.column(step) for step, _ in line], [plot.row(loss) for _, loss in line]
        plot.put(columns, rows, "braille", entry.colour)
    for n, (entry, line) in enumerate(zip(entries, lines, strict=True)):
        for part in range(LETTERS):
            step, loss = line[int(len(line) * (part + (n + 0.5) / len(lines)) / LETTERS)]
            plot.put([round(plot.column(step))], [round(plot.row(loss))], entry.letter, entry.colour)
        # Put letters of curves that end in the same row next to each other.
        column = plot.columns - plot.margin + 1 + ends[:n].count(ends[n])
        if column < plot.columns:
            plot.put([column], [ends[n]], entry.letter, entry.colour)
