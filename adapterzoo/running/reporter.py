"""The figures of a run's progress, and what a reporter of them is told."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from adapterzoo.results.progress import CellProgress, progress_file, remove_progress, write_progress
from adapterzoo.results.result import Result
from adapterzoo.terminal import count, duration

FILE_SECONDS = 1.0  # time between two updates of the file that adapterzoo view reads


@dataclass
class RunningCell:
    """A cell that is running."""

    name: str
    """label of the cell, followed by its seed if that is not 0"""
    number: int
    """number of the cell in the order in which the run's cells start"""
    begun: float = field(default_factory=time.monotonic)
    phase: str = ""
    phase_begun: float = field(default_factory=time.monotonic)
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    tokens: int = 0

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds until its training ends, at the same speed as before; None while it is not training."""
        if not self.step:
            return None
        return (time.monotonic() - self.phase_begun) / self.step * (self.steps - self.step)


class Reporter:
    """Keeps the figures of a run's progress, also in a file of the run's folder; subclasses show them."""

    def __init__(self) -> None:
        self.cells = 0
        self.jobs = 1
        self._started = 0
        """number of cells that have started"""
        self._running: dict[tuple[str, int], RunningCell] = {}
        """label and seed -> cell"""
        self._spent: list[float] = []
        """seconds that each finished cell with a method took"""
        self._file: Path | None = None
        self._written = 0.0
        """when the file with the progress was written"""

    def say(self, message: str) -> None:
        """Show a message that is not about progress."""

    def begin(self, cells: int, folder: Path, *, shared: bool = False) -> None:
        """Note that a run begins.

        Args:
            cells: the number of its cells.
            folder: the folder for its results.
            shared: whether other workers do cells of the run too.
        """
        self.cells, self._file = cells, progress_file(folder, shared)
        self._write()

    def forget(self) -> None:
        """Remove the file with the progress, because the run has ended."""
        if self._file is not None:
            remove_progress(self._file)

    def loading(self, quantization: str) -> None:
        """Note that the base model is being loaded with a quantization."""

    def start(self, label: str, seed: int) -> None:
        """Note that a cell starts."""
        before = self._running.get((label, seed))  # it starts again if the machine that did it was lost
        self._started += before is None
        number = before.number if before else self._started
        self._running[label, seed] = RunningCell(label if not seed else f"{label} (seed {seed})", number)
        self._write()

    def phase(self, label: str, seed: int, name: str) -> None:
        """Note that a cell begins its next phase, training or measuring for instance."""
        cell = self._running[label, seed]
        cell.phase, cell.phase_begun, cell.step = name, time.monotonic(), 0
        self._write()

    def step(self, label: str, seed: int, step: int, steps: int, loss: float, tokens: int) -> None:
        """Note that a training step of a cell is done; ``tokens`` is the number of tokens seen so far."""
        cell = self._running[label, seed]
        cell.step, cell.steps, cell.loss, cell.tokens = step, steps, loss, tokens
        if time.monotonic() - self._written >= FILE_SECONDS:
            self._write()

    def finish(self, result: Result, kept: bool = False) -> None:
        """Note that a cell has ended; ``kept`` means that its result is from an earlier run."""
        cell = self._running.pop((result.label, result.seed))
        if not kept and result.method is not None:
            self._spent.append(time.monotonic() - cell.begun)
        self._write()

    def end(self) -> None:
        """Note that all cells are done."""

    def _write(self) -> None:
        """Write the progress of the running cells into the run's folder."""
        if self._file is None:
            return
        self._written = time.monotonic()
        running = [
            CellProgress(
                label=label,
                seed=seed,
                phase=cell.phase,
                step=cell.step,
                steps=cell.steps if cell.step else 0,
                loss=cell.loss,
                seconds_left=cell.seconds_left,
            )
            for (label, seed), cell in self._running.items()
        ]
        write_progress(self._file, running)

    def _progress(self, cell: RunningCell) -> str:
        if not cell.step:
            return cell.phase
        seconds = time.monotonic() - cell.phase_begun
        speed = count(cell.tokens / seconds) if seconds > 0 else "-"
        left = duration(self._seconds_left())
        return f"step {cell.step}/{cell.steps}  loss {cell.loss:.3f}  {speed} tok/s  {left} left"

    def _seconds_left(self) -> float:
        """Return the seconds to the end of the run, if cells that have not started take as long as the mean cell."""
        estimates = [
            (time.monotonic() - cell.phase_begun) / cell.step * cell.steps
            for cell in self._running.values()
            if cell.step
        ]
        known = self._spent or estimates
        mean = sum(known) / len(known)
        running = [mean if cell.seconds_left is None else cell.seconds_left for cell in self._running.values()]
        shared_evenly = (sum(running) + mean * (self.cells - self._started)) / self.jobs
        return max(shared_evenly, *running)
