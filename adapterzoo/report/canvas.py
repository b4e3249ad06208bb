"""A plot in the terminal: axes, cells, the legend below. Positions are worked out here; plotext draws them."""

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
# Of xterm's 256: told apart on a dark and on a light ground.
COLOURS = (39, 208, 35, 170, 141, 37, 167, 136)


@dataclass(frozen=True)
class Axis:
    """From where to where; with ``log``, of the logarithm."""

    low: float
    high: float
    log: bool
    show: Callable[[float], str]

    @classmethod
    def over(cls, values: Sequence[float], show: Callable[[float], str], *, log: bool) -> Axis:
        """Around all values; the logarithm only where they are positive, and the last is ten times the first."""
        log = log and min(values) > 0 and max(values) > 10 * min(values)
        low, high = (math.log10(end) if log else end for end in (min(values), max(values)))
        room = (high - low) / 20 or abs(high) / 10 or 1.0
        return cls(low - room, high + room, log, show)

    def at(self, value: float, cells: int) -> float:
        """How many cells from the beginning of so many."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low) * (cells - 1)

    def ticks(self, most: int) -> dict[float, str]:
        """Round values and how they read."""
        unit, times = (60.0, (1, 2, 5, 10, 20, 30)) if self.show is duration else (10.0, (1, 2, 5))
        if self.log:
            first, last = (math.floor(end / math.log10(unit)) for end in (self.low, min(self.high, 300)))
            found = [n * unit**k for k in range(first, last + 1) for n in times]
            found = [one for one in found if self.low <= math.log10(one) <= self.high]
            found = found[:: -(-len(found) // most) or 1]
        else:
            least = (self.high - self.low) / most
            step = unit ** math.floor(math.log(least, unit))
            step *= next((n for n in times if n * step >= least), unit)
            found = [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        texts = [self.show(one) for one in found]
        apart = len(set(texts)) == len(texts) and max(map(len, texts), default=0) < 10
        return dict(zip(found, texts if apart else [f"{one:g}" for one in found], strict=True))


class Plot:
    """Cells on which signs are put, later ones over earlier ones."""

    def __init__(self, x: Axis, y: Axis, console: Console) -> None:
        self.x, self.y, self.console = x, y, console
        self.rows = (min(HEIGHT, max(8, console.height - 4)) if console.is_terminal else HEIGHT) - 2
        self.columns = max(10, console.width - 1 - max(map(len, y.ticks(6).values()), default=0))
        self.margin = 0
        """columns on the right that are beyond the axis"""
        self.signs: list[tuple[Sequence[float], Sequence[float], str, int | str]] = []

    def column(self, value: float) -> float:
        """Where a value is on the x axis."""
        return self.x.at(value, self.columns - self.margin)

    def row(self, value: float) -> float:
        """Where a value is on the y axis."""
        return self.y.at(value, self.rows)

    def put(self, columns: Sequence[float], rows: Sequence[float], sign: str, colour: int | str = "gray") -> None:
        """A line made of a sign; of one place, the sign."""
        self.signs.append((columns, rows, sign, colour))

    def show(self, above: str, below: str) -> None:
        """Print it, between what its axes are."""
        self.console.print(safe(above + ", log scale" * self.y.log, "bold"))
        for line in self._drawn().string().rstrip("\n").split("\n"):
            text = Text.from_ansi(line)
            text.rstrip()
            self.console.print(text, soft_wrap=True)
        self.console.print(safe(below + ", log scale" * self.x.log, "bold"), justify="right")

    def _drawn(self) -> Any:
        import plotext

        figure = plotext.figure
        # The process has only this one: nothing that was on it may be here, and nothing of this stay.
        figure.clear()
        plotext.terminal.limit(False, False)
        try:
            figure.theme("simple").plot_size(self.console.width, self.rows + 2)
            figure.axes(False, axis="x", side="upper").axes(False, axis="y", side="right")
            x, y = self.x.ticks(max(2, self.columns // 12)), self.y.ticks(6)
            figure.ruler("x").lim(0, self.columns - 1).ticks([self.column(one) for one in x], labels=list(x.values()))
            figure.ruler("y").lim(0, self.rows - 1).ticks([self.row(one) for one in y], labels=list(y.values()))
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
    said: str = ""

    @property
    def letter(self) -> str:
        """Its own, as long as there are any."""
        return (ascii_letters + digits + "+")[min(self.number, 62)]

    @property
    def colour(self) -> int:
        """Not always its own."""
        return COLOURS[self.number % len(COLOURS)]


def legend(shown: Sequence[Entry], titles: Sequence[str], cells: Sequence[Sequence[str]], console: Console) -> None:
    """Print which letter is which row, what it has, and what is to be said of it."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("method", overflow="fold")
    for title in titles:
        table.add_column(safe(title), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one, texts in zip(shown, cells, strict=True):
        letter = Text(one.letter, f"bold color({one.colour})")
        table.add_row(letter, safe(one.row.label), *map(safe, texts), one.said)
    console.print(table)
