"""What a run tells while it goes: bars at a terminal, plain lines in a pipe. All of it on stderr."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from adapterzoo.results.result import Result
from adapterzoo.terminal import clean, count, duration, safe, size, stderr

# Seconds between two lines about the same training, in a pipe.
PLAIN_EVERY = 15.0
LIVE_EVERY = 0.25  # seconds between two drawings of the same lines


@dataclass
class Work:
    """A cell that is being done."""

    name: str
    """its label, and its seed where that is not 0"""
    number: int
    """among the cells of the run, in the order in which they begin"""
    begun: float = field(default_factory=time.monotonic)
    phase: str = ""
    phase_begun: float = field(default_factory=time.monotonic)
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    tokens: int = 0

    @property
    def seconds_left(self) -> float | None:
        """Of its training, at its own pace; None while it does not train."""
        if not self.step:
            return None
        return (time.monotonic() - self.phase_begun) / self.step * (self.steps - self.step)


class Reporter:
    """Told what a run does. Says nothing itself, but keeps the figures for those that do."""

    def __init__(self) -> None:
        self.cells = 0
        self.jobs = 1
        self._begun = 0
        self._at_work: dict[tuple[str, int], Work] = {}
        self._spent: list[float] = []
        """seconds that each cell with a method took"""

    def say(self, message: str) -> None:
        """Something worth knowing, apart from progress."""

    def begin(self, cells: int, folder: Path) -> None:
        """A run of so many cells begins, into a folder."""
        self.cells = cells

    def loading(self, quantization: str) -> None:
        """A base is being loaded."""

    def start(self, label: str, seed: int) -> None:
        """A cell begins."""
        self._begun += 1
        self._at_work[label, seed] = Work(label if not seed else f"{label} (seed {seed})", self._begun)

    def phase(self, label: str, seed: int, name: str) -> None:
        """A cell does something else now."""
        work = self._at_work[label, seed]
        work.phase, work.phase_begun, work.step = name, time.monotonic(), 0

    def step(self, label: str, seed: int, step: int, steps: int, loss: float, tokens: int) -> None:
        """A training step of a cell is done; ``tokens`` have been seen so far."""
        work = self._at_work[label, seed]
        work.step, work.steps, work.loss, work.tokens = step, steps, loss, tokens

    def finish(self, result: Result, kept: bool = False) -> None:
        """A cell ended; ``kept`` says that its result was there already."""
        work = self._at_work.pop((result.label, result.seed))
        if not kept and result.method is not None:
            self._spent.append(time.monotonic() - work.begun)

    def end(self) -> None:
        """All cells are done."""

    def _progress(self, work: Work) -> str:
        if not work.step:
            return work.phase
        seconds = time.monotonic() - work.phase_begun
        speed = count(work.tokens / seconds) if seconds > 0 else "-"
        left = duration(self._left())
        return f"step {work.step}/{work.steps}  loss {work.loss:.3f}  {speed} tok/s  {left} left"

    def _left(self) -> float:
        """Seconds to the end of the run: trainings at their pace, the cells to come at the mean of those done."""
        paces = [
            (time.monotonic() - work.phase_begun) / work.step * work.steps
            for work in self._at_work.values()
            if work.step
        ]
        known = self._spent or paces
        mean = sum(known) / len(known)
        here = [mean if work.seconds_left is None else work.seconds_left for work in self._at_work.values()]
        together = (sum(here) + mean * (self.cells - self._begun)) / self.jobs
        return max(together, *here)


class PlainReporter(Reporter):
    """One line for each thing that happened, without colour or cursor movements."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._shown: dict[tuple[str, int], float] = {}

    def say(self, message: str) -> None:
        self._line(message)

    def begin(self, cells: int, folder: Path) -> None:
        super().begin(cells, folder)
        self._line(f"{cells} cells, results in {_short(folder)}")

    def loading(self, quantization: str) -> None:
        self._line(f"loading the base model ({quantization})")

    def phase(self, label: str, seed: int, name: str) -> None:
        super().phase(label, seed, name)
        self._tell(label, seed)

    def step(self, label: str, seed: int, step: int, steps: int, loss: float, tokens: int) -> None:
        super().step(label, seed, step, steps, loss, tokens)
        if step == steps or time.monotonic() - self._shown[label, seed] >= PLAIN_EVERY:
            self._tell(label, seed)

    def finish(self, result: Result, kept: bool = False) -> None:
        self._line(_finished(self._at_work[result.label, result.seed], self.cells, result, kept))
        super().finish(result, kept)

    def _tell(self, label: str, seed: int) -> None:
        work = self._at_work[label, seed]
        self._shown[label, seed] = time.monotonic()
        self._line(f"[{work.number}/{self.cells}] {work.name}: {self._progress(work)}")

    def _line(self, text: str) -> None:
        self.console.print(Text(clean(text)), soft_wrap=True)


class LiveReporter(Reporter):
    """A live line for each cell at work; a finished cell leaves its line above them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._live: Live | None = None
        self._drawn = 0.0

    def say(self, message: str) -> None:
        self.console.print(safe(message), soft_wrap=True)

    def begin(self, cells: int, folder: Path) -> None:
        super().begin(cells, folder)
        self.say(f"{cells} cells, results in {_short(folder)}")
        # Without a thread that draws: a process that is forked while that one holds a lock would wait for ever.
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._live.start()

    def loading(self, quantization: str) -> None:
        self._draw(Text(f"loading the base model ({quantization})", "bold"))

    def phase(self, label: str, seed: int, name: str) -> None:
        super().phase(label, seed, name)
        self._draw()

    def step(self, label: str, seed: int, step: int, steps: int, loss: float, tokens: int) -> None:
        super().step(label, seed, step, steps, loss, tokens)
        if time.monotonic() - self._drawn >= LIVE_EVERY:
            self._draw()

    def finish(self, result: Result, kept: bool = False) -> None:
        line = _finished(self._at_work[result.label, result.seed], self.cells, result, kept)
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
            lines = [*(self._drawing(work) for work in self._at_work.values()), *more]
            self._live.update(Text("\n").join(lines), refresh=True)

    def _drawing(self, work: Work) -> Text:
        head, text = f"[{work.number}/{self.cells}] {clean(work.name)} ", self._progress(work)
        room = self.console.width - len(head) - len(text) - 2
        bar = Text()
        if work.step and room >= 8:
            width = min(room, 24)
            done = round(width * work.step / work.steps)
            bar.append("━" * done, "green").append("━" * (width - done), "bright_black").append(" ")
        line = Text(head, "bold").append_text(bar).append(clean(text), "none")
        line.truncate(self.console.width, overflow="ellipsis")
        return line


def _finished(work: Work, cells: int, result: Result, kept: bool) -> str:
    return f"[{work.number}/{cells}] {outcome(result, work.name, kept)}"


def outcome(result: Result, label: str, kept: bool = False) -> str:
    """A cell in one line, of less than 80 characters unless it failed."""
    if not result.ok:
        return f"{label}: failed: {result.error}"
    shown = [*result.metrics][:2]  # those that compare answers come first
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
