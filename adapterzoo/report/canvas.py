"""A plot in the terminal, with its axes and the legend below it.

Positions are computed here, in character cells; plotext draws them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_letters, digits
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapterzoo.results.row import Row
from adapterzoo.terminal import duration, safe

HEIGHT = 20
# Numbers of xterm's 256 colours that are easy to see on a dark and on a light background.
COLOURS = (39, 208, 35, 170, 141, 37, 167, 136)


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    low: float
    """value at the beginning of the axis; with ``log``, its logarithm"""
    high: float
    """value at the end of the axis; with ``log``, its logarithm"""
    log: bool
    """whether the scale is logarithmic"""
    show: Callable[[float], str]
    """writes a value as text"""

    @classmethod
    def over(cls, values: Sequence[float], show: Callable[[float], str], *, log: bool) -> Axis:
        """Return an axis around all values.

        Args:
            values: the values that the axis must show.
            show: writes a value as text.
            log: whether the scale is logarithmic if all values are positive and span more than a factor of ten.
        """
        log = log and min(values) > 0 and max(values) > 10 * min(values)
        low, high = (math.log10(end) if log else end for end in (min(values), max(values)))
        margin = (high - low) / 20 or abs(high) / 10 or 1.0
        return cls(low - margin, high + margin, log, show)

    def at(self, value: float, cells: int) -> float:
        """Return the position of a value on an axis that is ``cells`` long, in cells from its beginning."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low) * (cells - 1)

    def ticks(self, most: int) -> dict[float, str]:
        """Return round values, about ``most`` of them, each with its text."""
        unit, multiples = (60.0, (1, 2, 5, 10, 20, 30)) if self.show is duration else (10.0, (1, 2, 5))
        if self.log:
            first, last = (math.floor(end / math.log10(unit)) for end in (self.low, min(self.high, 300)))
            values = [n * unit**power for power in range(first, last + 1) for n in multiples]
            values = [value for value in values if self.low <= math.log10(value) <= self.high]
            values = values[:: -(-len(values) // most) or 1]
        else:
            least = (self.high - self.low) / most
            step = unit ** math.floor(math.log(least, unit))
            step *= next((n for n in multiples if n * step >= least), unit)
            values = [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        texts = [self.show(value) for value in values]
        readable = len(set(texts)) == len(texts) and max(map(len, texts), default=0) < 10
        return dict(zip(values, texts if readable else [f"{value:g}" for value in values], strict=True))


class Plot:
    """A plot made of signs in character cells. Signs that are put later hide earlier ones."""

    def __init__(self, x: Axis, y: Axis, console: Console) -> None:
        self.x, self.y, self.console = x, y, console
        self.rows = (min(HEIGHT, max(8, console.height - 4)) if console.is_terminal else HEIGHT) - 2
        self.columns = max(10, console.width - 1 - max(map(len, y.ticks(6).values()), default=0))
        self.margin = 0
        """number of columns on the right that are kept free, beyond the end of the axis"""
        self.signs: list[tuple[Sequence[float], Sequence[float], str, int | str]] = []
        """columns, rows, sign and colour of everything that was put on the plot"""

    def column(self, value: float) -> float:
        """Return the column of a value on the x axis."""
        return self.x.at(value, self.columns - self.margin)

    def row(self, value: float) -> float:
        """Return the row of a value on the y axis."""
        return self.y.at(value, self.rows)

    def put(self, columns: Sequence[float], rows: Sequence[float], sign: str, colour: int | str = "gray") -> None:
        """Draw a line of signs through these places; if there is only one place, put one sign there."""
        self.signs.append((columns, rows, sign, colour))

    def show(self, above: str, below: str) -> None:
        """Print the plot between the titles of its axes, the y axis's above and the x axis's below."""
        self.console.print(safe(above + ", log scale" * self.y.log, "bold"))
        for line in self._drawn().string().rstrip("\n").split("\n"):
            text = Text.from_ansi(line)
            text.rstrip()
            self.console.print(text, soft_wrap=True)
        self.console.print(safe(below + ", log scale" * self.x.log, "bold"), justify="right")

    def _drawn(self) -> Any:
        import plotext

        figure = plotext.figure
        # plotext has one figure for the whole process: clear it before drawing, and again afterwards.
        figure.clear()
        plotext.terminal.limit(False, False)
        try:
            figure.theme("simple").plot_size(self.console.width, self.rows + 2)
            figure.axes(False, axis="x", side="upper").axes(False, axis="y", side="right")
            x, y = self.x.ticks(max(2, self.columns // 12)), self.y.ticks(6)
            figure.ruler("x").lim(0, self.columns - 1).ticks(
                [self.column(value) for value in x], labels=list(x.values())
            )
            figure.ruler("y").lim(0, self.rows - 1).ticks([self.row(value) for value in y], labels=list(y.values()))
            for columns, rows, sign, colour in self.signs:
                signal = figure.signal(columns, rows, marker=plotext.marker(sign, pixel=colour))
                figure.draw(signal.lines(len(columns) > 1))
            return figure.build()
        finally:
            figure.clear()
            figure.theme()
            plotext.terminal.limit()


@dataclass
class Entry:
    """A row in a plot, and its line in the legend."""

    row: Row
    number: int
    """position in the legend, from 0"""
    note: str = ""
    """text at the end of its line in the legend"""

    @property
    def letter(self) -> str:
        """The letter of the row in the plot; from the 63rd row on it is ``+``."""
        return (ascii_letters + digits + "+")[min(self.number, 62)]

    @property
    def colour(self) -> int:
        """The colour of the row; colours repeat if there are many rows."""
        return COLOURS[self.number % len(COLOURS)]


def legend(entries: Sequence[Entry], titles: Sequence[str], cells: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table of the rows in a plot: letter, label, the given cells, and a note.

    Args:
        entries: the rows.
        titles: the titles of the columns.
        cells: the texts of each row, one for each title.
        console: where to print.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("method", overflow="fold")
    for title in titles:
        table.add_column(safe(title), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for entry, texts in zip(entries, cells, strict=True):
        letter = Text(entry.letter, f"bold color({entry.colour})")
        table.add_row(letter, safe(entry.row.label), *map(safe, texts), entry.note)
    console.print(table)
