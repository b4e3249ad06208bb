"""Run several cells at the same time, each in its own process."""

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
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.progress import Reporter
from adapterzoo.running.schedule import CellWatch, Schedule
from adapterzoo.running.watch import Sender
from adapterzoo.running.worker import Worker, reason

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


@dataclass(frozen=True, eq=False)
class _Task:
    """The work of one process: do a cell, or measure the general text with an untouched base model."""

    quantization: str
    """quantization of the base model that the task needs"""
    cell: Cell | None = None
    """None for the general text"""


class ProcessQueue(Schedule):
    """A schedule that runs several cells at the same time, each in its own process, forked from this process.

    This process holds the base models and computes nothing with them. What a cell breaks or changes is gone when its
    process ends, and if a process is killed, only its own row fails.
    """

    def __init__(self, worker: Worker, reporter: Reporter, clock: Stopwatch, forks_may_use_threads: bool) -> None:
        super().__init__(worker, reporter, clock)
        self.forks_may_use_threads = forks_may_use_threads
        self.base_bytes: dict[str, int] = {}
        """quantization -> size of the base model that was loaded with it"""
        self.running: dict[Process, _Task] = {}

    def do(self) -> None:
        """Start processes, up to the number of jobs, and handle their messages, until every cell is done."""
        self.waiting = self._tasks()
        self._load(self.waiting[0].quantization)
        concurrency = self._choose_concurrency()
        self.jobs = self.reporter.jobs = concurrency.jobs
        try:
            while self.waiting or self.running:
                while len(self.running) < concurrency.jobs and (task := self._next()) is not None:
                    self._start(task, concurrency.threads)
                processes.wait_for_any(list(self.running))
                for process in list(self.running):
                    self._handle_messages(process)
        finally:
            for process in self.running:
                process.kill()

    def _tasks(self) -> list[_Task]:
        """Return the tasks, the longest first, so that no long task runs alone at the end.

        Cells with a quantization that their method requires come first. The untouched base model, which is only
        measured, comes last for each quantization.
        """
        own = self.recipe.model.quantization
        tasks = []
        for quantization in sorted({cell.quantization for cell in self.todo}, key=lambda name: (name == own, name)):
            cells = [cell for cell in self.todo if cell.quantization == quantization]
            cells.sort(key=lambda cell: isinstance(cell, BaseCell))
            if self.prepared.general is not None and any(isinstance(cell, MethodCell) for cell in cells):
                tasks.append(_Task(quantization))
            tasks += [_Task(quantization, cell) for cell in cells]
        return tasks

    def _choose_concurrency(self) -> Concurrency:
        """Return how many cells run at a time, and their number of threads, which stays the same in this folder."""
        jobs, wanted = self.recipe.jobs, self.recipe.threads
        if not self.forks_may_use_threads:
            if wanted not in ("auto", 1):
                what = f"{wanted} threads are not possible: torch has used several threads in this process."
                hint = "Set OMP_NUM_THREADS=1 before torch is imported, leave threads at auto, or set jobs: 0."
                raise UserError.at("threads", what, hint)
            wanted = 1
        threads = parallel.known_threads(wanted, jobs, self.store.threads())
        if threads is not None:
            concurrency = parallel.for_threads(threads, jobs, len(self.todo))
        else:
            base = self.bases[self.waiting[0].quantization]
            cells = [cell for cell in self.todo if cell.quantization == self.waiting[0].quantization]
            with self.clock("probing"):
                concurrency = parallel.probe(self.prepared, cells, base, jobs, len(self.todo), self.reporter.say)
        self.store.keep_threads(concurrency.threads)
        self.worker.threads, self.worker.jobs = concurrency.threads, concurrency.jobs
        return concurrency

    def _next(self) -> _Task | None:
        """Return the next task that can start now, or None."""
        for task in self.waiting:
            if self._can_start(task):
                self.waiting.remove(task)
                return task
        return None

    def _can_start(self, task: _Task) -> bool:
        cell = task.cell
        if task.quantization not in self.bases and self.running and not self._room_for_another_base():
            return False
        if not isinstance(cell, MethodCell):
            return True
        if self.prepared.general is not None and task.quantization not in self.general:
            return isinstance(self.bases.get(task.quantization), Exception)
        # The first cell of a label tunes for all its seeds, so its other cells wait for the result.
        running_cells = [running.cell for running in self.running.values()]
        tuning = {running.label for running in running_cells if isinstance(running, MethodCell) and running.ranges}
        return not (cell.ranges and cell.label in tuning and cell.label not in self.tunings)

    def _room_for_another_base(self) -> bool:
        """Tell whether another base model can be loaded beside those in use."""
        from adapterzoo.machine.memory import available

        return available() > 2 * max(self.base_bytes.values(), default=0)

    def _start(self, task: _Task, threads: int) -> None:
        base = self.bases.get(task.quantization) or self._load(task.quantization)
        cell = task.cell
        if cell is not None:
            self.reporter.start(cell.label, cell.seed)
        if isinstance(base, Exception):
            if cell is not None:
                self._finish(self.worker.fail(cell, reason(base), "", keep_checkpoints=True))
        else:
            self.base_bytes[task.quantization] = base.bytes
            if cell is not None:  # a result that is there at the end is then from the new process
                (self.store.cell(cell.label, cell.seed) / RESULT).unlink(missing_ok=True)
            self.running[Process(lambda send: self._do_task(task, base, send), threads)] = task
        if not any(waiting.quantization == task.quantization for waiting in self.waiting):
            del self.bases[task.quantization]  # the forked processes have their own copies
            gc.collect()

    def _do_task(self, task: _Task, base: Base, send: processes.Send) -> None:
        """Do a task; this runs in the new process."""
        if task.cell is None:
            begun = time.monotonic()
            send(("general", self._measure_general(base), time.monotonic() - begun))
            return
        tuning, general = self.tunings.get(task.cell.label), self.general.get(task.quantization)
        self.worker.do(task.cell, base, Sender(send), tuning=tuning, general=general)

    def _handle_messages(self, process: Process) -> None:
        """Handle the messages of a process, and its result if it has ended."""
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
            self._handle_end(task, process)

    def _handle_end(self, task: _Task, process: Process) -> None:
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
