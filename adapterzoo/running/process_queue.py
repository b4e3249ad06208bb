"""The cells of a run side by side, each in a process of its own."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterzoo.errors import AdapterzooError, UserError
from adapterzoo.machine import processes
from adapterzoo.machine.processes import Process
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import BaseCell, Cell, MethodCell
from adapterzoo.results.result import RESULT, read_result
from adapterzoo.running import parallel
from adapterzoo.running.parallel import Parallel
from adapterzoo.running.progress import Reporter
from adapterzoo.running.schedule import CellWatch, Schedule
from adapterzoo.running.watch import Sender
from adapterzoo.running.worker import Worker, reason

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


@dataclass(frozen=True, eq=False)
class _Task:
    """What one process does: a cell, or how likely the general text is to a base."""

    quantization: str
    """of the base model that it needs"""
    cell: Cell | None = None


class InProcesses(Schedule):
    """Cells side by side, each in a process of its own, forked from this one.

    This one holds the bases, and computes nothing on them. What a cell breaks or changes is gone with its process, and
    a process that is killed is its own row's failure.
    """

    def __init__(self, worker: Worker, reporter: Reporter, clock: Stopwatch, fresh: bool) -> None:
        super().__init__(worker, reporter, clock)
        self.fresh = fresh
        self.bytes: dict[str, int] = {}
        """of each base that was loaded, by its quantization"""
        self.running: dict[Process, _Task] = {}

    def do(self) -> None:
        """Start processes as there is room, and take in what they send, until every cell is done."""
        self.waiting = self._tasks()
        self._load(self.waiting[0].quantization)
        how = self._choose()
        self.jobs = self.reporter.jobs = how.jobs
        try:
            while self.waiting or self.running:
                while len(self.running) < how.jobs and (task := self._next()) is not None:
                    self._begin(task, how.threads)
                processes.wait_for_any(list(self.running))
                for process in list(self.running):
                    self._hear(process)
        finally:
            for process in self.running:
                process.kill()

    def _tasks(self) -> list[_Task]:
        """Return what there is to do, the longest first, so that no process is left alone with it at the end.

        Quantized bases that methods demand come first, and the untouched base, which is only measured, last.
        """
        own = self.recipe.model.quantization
        tasks = []
        for quantization in sorted({cell.quantization for cell in self.todo}, key=lambda name: (name == own, name)):
            cells = sorted(
                (c for c in self.todo if c.quantization == quantization), key=lambda cell: isinstance(cell, BaseCell)
            )
            if self.prepared.general is not None and any(isinstance(cell, MethodCell) for cell in cells):
                tasks.append(_Task(quantization))
            tasks += [_Task(quantization, cell) for cell in cells]
        return tasks

    def _choose(self) -> Parallel:
        """Return how the machine is shared out, the same for all runs into this folder."""
        jobs, wanted = self.recipe.jobs, self.recipe.threads
        if not self.fresh:
            if wanted not in ("auto", 1):
                hint = "Set OMP_NUM_THREADS=1 before torch is imported, leave threads at auto, or set jobs: 0."
                raise UserError.at("threads", f"{wanted} threads: this process has used torch with several.", hint)
            wanted = 1
        threads = parallel.known_threads(wanted, jobs, self.store.threads())
        if threads is not None:
            how = parallel.for_threads(threads, jobs, len(self.todo))
        else:
            base = self.bases[self.waiting[0].quantization]
            cells = [cell for cell in self.todo if cell.quantization == self.waiting[0].quantization]
            with self.clock("probing"):
                how = parallel.probe(self.prepared, cells, base, jobs, len(self.todo), self.reporter.say)
        self.store.keep_threads(how.threads)
        self.worker.threads, self.worker.jobs = how.threads, how.jobs
        return how

    def _next(self) -> _Task | None:
        """Return the next task that can begin now, if there is one."""
        for task in self.waiting:
            if self._ready(task):
                self.waiting.remove(task)
                return task
        return None

    def _ready(self, task: _Task) -> bool:
        cell = task.cell
        if task.quantization not in self.bases and self.running and not self._room_for_another():
            return False
        if not isinstance(cell, MethodCell):
            return True
        if self.prepared.general is not None and task.quantization not in self.general:
            return isinstance(self.bases.get(task.quantization), Exception)
        # Settings are chosen by the first seed of a label.
        at_work = [other.cell for other in self.running.values() if isinstance(other.cell, MethodCell)]
        busy = {other.label for other in at_work if other.ranges}
        return not (cell.ranges and cell.label in busy and cell.label not in self.tunings)

    def _room_for_another(self) -> bool:
        """Whether a second base can be loaded beside those that are at work."""
        from adapterzoo.machine.memory import available

        return available() > 2 * max(self.bytes.values(), default=0)

    def _begin(self, task: _Task, threads: int) -> None:
        base = self.bases.get(task.quantization) or self._load(task.quantization)
        cell = task.cell
        if cell is not None:
            self.reporter.start(cell.label, cell.seed)
        if isinstance(base, Exception):
            if cell is not None:
                self._finish(self.worker.fail(cell, reason(base), "", keep_checkpoints=True))
        else:
            self.bytes[task.quantization] = base.bytes
            if cell is not None:  # what is there afterwards is of this process
                (self.store.cell(cell.label, cell.seed) / RESULT).unlink(missing_ok=True)
            self.running[Process(lambda send: self._work(task, base, send), threads)] = task
        if not any(other.quantization == task.quantization for other in self.waiting):
            del self.bases[task.quantization]  # the processes have their own
            gc.collect()

    def _work(self, task: _Task, base: Base, send: processes.Send) -> None:
        """In the new process: do a task."""
        if task.cell is None:
            begun = time.monotonic()
            send(("general", self._measure_general(base), time.monotonic() - begun))
            return
        tuning, general = self.tunings.get(task.cell.label), self.general.get(task.quantization)
        self.worker.do(task.cell, base, Sender(send), tuning=tuning, general=general)

    def _hear(self, process: Process) -> None:
        """Take in what a process says, and what came of it where it has ended."""
        ended = not process.alive
        task = self.running[process]
        for name, *values in process.messages():
            if task.cell is None:
                self.general[task.quantization], seconds = values
                self.clock.add("general text", seconds)
            else:
                getattr(CellWatch(self, task.cell), name)(*values)
        if ended:
            del self.running[process]
            self._ended(task, process)

    def _ended(self, task: _Task, process: Process) -> None:
        why = process.failure()
        if task.cell is None:
            if task.quantization not in self.general:
                what = f"the general text could not be measured: {why or 'its process sent nothing'}"
                self.general[task.quantization] = AdapterzooError(what)
                self.reporter.say(f"{what}\n{process.output()}")
            return
        path = self.store.cell(task.cell.label, task.cell.seed) / RESULT
        if path.is_file():
            result = read_result(path)
        else:
            why = why or "its process ended before the cell did"
            result = self.worker.fail(task.cell, why, process.output(), keep_checkpoints=True)
        self._finish(result)
