"""What a run tells while it goes: bars at a terminal, plain lines in a pipe. All of it on stderr."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from adapterzoo.results import Result
from adapterzoo.terminal import clean, count, duration, safe, size, stderr

# Seconds between two lines about the same training, in a pipe.
PLAIN_EVERY = 15.0


class Reporter:
    """Told what a run does. Says nothing itself, but keeps the figures for those that do."""

    def __init__(self) -> None:
        self.cell = 0
        self.cells = 0
        self.label = ""
        self._cell_begun = self._run_begun = self._train_begun = time.monotonic()
        self._spent = 0.0
        self._measured = 0

    def say(self, message: str) -> None:
        """Something worth knowing, apart from progress."""

    def begin(self, cells: int, folder: Path) -> None:
        """A run of so many cells begins, into a folder."""
        self.cells = cells

    def start(self, label: str, seed: int) -> None:
        """The next cell begins."""
        self.cell += 1
        self.label = label if not seed else f"{label} (seed {seed})"
        self._cell_begun = time.monotonic()

    def phase(self, name: str) -> None:
        """The cell does something else now."""
        self._train_begun = time.monotonic()

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """A training step is done; ``tokens`` have been seen so far."""

    def finish(self, result: Result, kept: bool = False) -> None:
        """The cell ended; ``kept`` says that its result was there already."""
        if not kept and result.method is not None:
            self._spent += time.monotonic() - self._cell_begun
            self._measured += 1

    def end(self) -> None:
        """All cells are done."""

    def _progress(self, step: int, steps: int, loss: float, tokens: int) -> str:
        seconds = time.monotonic() - self._train_begun
        speed = count(tokens / seconds) if seconds > 0 else "-"
        return f"step {step}/{steps}  loss {loss:.3f}  {speed} tok/s  {duration(self._left(step, steps))} left"

    def _left(self, step: int, steps: int) -> float:
        """Seconds to the end of the run: this training at its pace, the cells to come at the mean of those done."""
        pace = (time.monotonic() - self._train_begun) / max(step, 1)
        here = pace * (steps - step)
        mean = self._spent / self._measured if self._measured else pace * steps
        return here + mean * (self.cells - self.cell)


class PlainReporter(Reporter):
    """One line for each thing that happened, without colour or cursor movements."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._last = 0.0

    def say(self, message: str) -> None:
        self._line(message)

    def begin(self, cells: int, folder: Path) -> None:
        super().begin(cells, folder)
        self._line(f"{cells} cells, results in {_short(folder)}")

    def phase(self, name: str) -> None:
        super().phase(name)
        self._last = time.monotonic()
        self._line(f"[{self.cell}/{self.cells}] {self.label}: {name}")

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        if step == steps or time.monotonic() - self._last >= PLAIN_EVERY:
            self._last = time.monotonic()
            self._line(f"[{self.cell}/{self.cells}] {self.label}: {self._progress(step, steps, loss, tokens)}")

    def finish(self, result: Result, kept: bool = False) -> None:
        super().finish(result, kept)
        self._line(f"[{self.cell}/{self.cells}] {outcome(result, self.label, kept)}")

    def _line(self, text: str) -> None:
        self.console.print(Text(clean(text)), soft_wrap=True)


class LiveReporter(PlainReporter):
    """A live line for the cell at work; a finished cell leaves its line above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None

    def begin(self, cells: int, folder: Path) -> None:
        super().begin(cells, folder)
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._live.start()

    def phase(self, name: str) -> None:
        Reporter.phase(self, name)
        self._show(0.0, name)

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        self._show(step / steps, self._progress(step, steps, loss, tokens))

    def finish(self, result: Result, kept: bool = False) -> None:
        Reporter.finish(self, result, kept)
        style = "" if result.ok else "red"
        self.console.print(
            safe(f"[{self.cell}/{self.cells}] {outcome(result, self.label, kept)}", style), soft_wrap=True
        )

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, share: float, text: str) -> None:
        if self._live is None:
            return
        head = f"[{self.cell}/{self.cells}] {clean(self.label)} "
        room = self.console.width - len(head) - len(text) - 2
        bar = Text()
        if share and room >= 8:
            width = min(room, 24)
            done = round(width * share)
            bar.append("━" * done, "green").append("━" * (width - done), "bright_black").append(" ")
        line = Text(head, "bold").append_text(bar).append(clean(text), "none")
        line.truncate(self.console.width, overflow="ellipsis")
        self._live.update(line)


def outcome(result: Result, label: str, kept: bool = False) -> str:
    """A cell in one line, of less than 80 characters unless it failed."""
    if not result.ok:
        return f"{label}: failed: {result.error}"
    shown = [name for name in ("exact_match", "test_loss", "perplexity") if name in result.metrics][:2]
    parts = [f"{name.removeprefix('test_').replace('_', ' ')} {result.metrics[name]:.3f}" for name in shown]
    if result.method is not None:
        parts += [f"{count(result.trainable_params)} params", f"in {duration(result.train_seconds or 0)}"]
    if result.peak_memory_bytes:
        parts.append(f"peak {size(result.peak_memory_bytes)}")
    return f"{label}: {', '.join(parts)}" + (" (there already)" if kept else "")


def _short(folder: Path) -> Path:
    """Return a folder's path as it is written from here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def reporter() -> Reporter:
    """A live display where both streams are a terminal, plain lines elsewhere or with NO_COLOR set."""
    console = stderr()
    live = (
        sys.stdout.isatty() and console.is_terminal and not os.environ.get("NO_COLOR") and not console.is_dumb_terminal
    )
    return LiveReporter(console) if live else PlainReporter(console)
