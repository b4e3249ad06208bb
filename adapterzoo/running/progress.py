"""Show the progress of a run on stderr: bars in a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from adapterzoo.results.result import Result
from adapterzoo.running.reporter import Reporter, RunningCell
from adapterzoo.terminal import clean, count, counted, duration, safe, size, stderr

PLAIN_SECONDS = 15.0  # time between two lines about the same training in a pipe
LIVE_SECONDS = 0.25  # time between two updates of the live display


class PlainReporter(Reporter):
    """A reporter that prints one line for each event, without colour or cursor movements."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._shown: dict[tuple[str, int], float] = {}
        """label and seed -> time of the cell's last line"""

    def say(self, message: str) -> None:
        self._line(message)

    def begin(self, cells: int, folder: Path, *, shared: bool = False) -> None:
        super().begin(cells, folder, shared=shared)
        self._line(f"{counted(cells, 'cell')}, results in {_short(folder)}")

    def loading(self, quantization: str) -> None:
        self._line(f"loading the base model ({quantization})")

    def phase(self, label: str, seed: int, name: str) -> None:
        super().phase(label, seed, name)
        self._show(label, seed)

    def step(self, label: str, seed: int, step: int, steps: int, loss: float, tokens: int) -> None:
        super().step(label, seed, step, steps, loss, tokens)
        if step == steps or time.monotonic() - self._shown[label, seed] >= PLAIN_SECONDS:
            self._show(label, seed)

    def finish(self, result: Result, kept: bool = False) -> None:
        self._line(_finished(self._running[result.label, result.seed], self.cells, result, kept))
        super().finish(result, kept)

    def _show(self, label: str, seed: int) -> None:
        cell = self._running[label, seed]
        self._shown[label, seed] = time.monotonic()
        self._line(f"[{cell.number}/{self.cells}] {cell.name}: {self._progress(cell)}")

    def _line(self, text: str) -> None:
        self.console.print(Text(clean(text)), soft_wrap=True)


class LiveReporter(Reporter):
    """A reporter that updates one line for each running cell; the lines of finished cells stay above them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._live: Live | None = None
        self._drawn = 0.0

    def say(self, message: str) -> None:
        self.console.print(safe(message), soft_wrap=True)

    def begin(self, cells: int, folder: Path, *, shared: bool = False) -> None:
        super().begin(cells, folder, shared=shared)
        self.say(f"{counted(cells, 'cell')}, results in {_short(folder)}")
        # Do not let rich draw in a thread: a process forked while that thread holds a lock would wait forever.
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._live.start()

    def loading(self, quantization: str) -> None:
        self._draw(Text(f"loading the base model ({quantization})", "bold"))

    def phase(self, label: str, seed: int, name: str) -> None:
        super().phase(label, seed, name)
        self._draw()

    def step(self, label: str, seed: int, step: int, steps: int, loss: float, tokens: int) -> None:
        super().step(label, seed, step, steps, loss, tokens)
        if time.monotonic() - self._drawn >= LIVE_SECONDS:
            self._draw()

    def finish(self, result: Result, kept: bool = False) -> None:
        line = _finished(self._running[result.label, result.seed], self.cells, result, kept)
        super().finish(result, kept)
        self.console.print(safe(line, "" if result.ok else "red"), soft_wrap=True)
        self._draw()

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, *more: Text) -> None:
        self._drawn = time.monotonic()
        if self._live is not None:
            lines = [*(self._cell_line(cell) for cell in self._running.values()), *more]
            self._live.update(Text("\n").join(lines), refresh=True)

    def _cell_line(self, cell: RunningCell) -> Text:
        head, text = f"[{cell.number}/{self.cells}] {clean(cell.name)} ", self._progress(cell)
        room = self.console.width - len(head) - len(text) - 2
        bar = Text()
        if cell.step and room >= 8:
            width = min(room, 24)
            done = round(width * cell.step / cell.steps)
            bar.append("━" * done, "green").append("━" * (width - done), "bright_black").append(" ")
        line = Text(head, "bold").append_text(bar).append(clean(text), "none")
        line.truncate(self.console.width, overflow="ellipsis")
        return line


def _finished(cell: RunningCell, cells: int, result: Result, kept: bool) -> str:
    return f"[{cell.number}/{cells}] {outcome(result, cell.name, kept)}"


def outcome(result: Result, label: str, kept: bool = False) -> str:
    """Return a cell's result in one line, shorter than 80 characters unless the cell failed."""
    if not result.ok:
        return f"{label}: failed: {result.error}"
    shown = [*result.metrics][:2]  # metrics of answers come first
    parts = [f"{name.removeprefix('test_').replace('_', ' ')} {result.metrics[name]:.3f}" for name in shown]
    if result.method is not None:
        parts += [f"{count(result.trainable_params)} params", f"in {duration(result.train_seconds or 0)}"]
    if result.peak_memory_bytes:
        parts.append(f"peak {size(result.peak_memory_bytes)}")
    return f"{label}: {', '.join(parts)}" + (" (already done)" if kept else "")


def _short(folder: Path) -> Path:
    """Return a folder's path, relative to the working directory if the folder is inside it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def notebook_reporter() -> Reporter:
    """Return a live reporter in a notebook, by rich's own display; elsewhere one that shows nothing."""
    console = Console(highlight=False)
    return LiveReporter(console) if console.is_jupyter else Reporter()


def reporter() -> Reporter:
    """Return a live reporter if stdout and stderr are a terminal without NO_COLOR, else a plain one."""
    console = stderr()
    live = (
        sys.stdout.isatty() and console.is_terminal and not os.environ.get("NO_COLOR") and not console.is_dumb_terminal
    )
    return LiveReporter(console) if live else PlainReporter(console)
