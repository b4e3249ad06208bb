"""Run several cells at the same time, each in its own process; what starts the processes is in subclasses."""

from __future__ import annotations

import time
from dataclasses import replace
from math import inf
from typing import Any

from adapterzoo.errors import failure_reason
from adapterzoo.machine import processes, stopping
from adapterzoo.machine.fresh_process import DONE
from adapterzoo.machine.processes import ProcessHandle
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import BaseCell, MethodCell
from adapterzoo.results.claims import LOOK_SECONDS, Claims
from adapterzoo.results.result import Result
from adapterzoo.running.of_base import OfBase, needs_base
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.schedule import CellWatch, Schedule
from adapterzoo.running.work_item import EarlierResults, WorkItem
from adapterzoo.running.worker import Worker, too_long


class WorkQueue(Schedule):
    """A schedule that runs several cells at the same time, each in its own process.

    If a process is killed, only its own row fails. If it was measuring the base model, all rows that need it fail.
    """

    def __init__(self, worker: Worker, reporter: Reporter, clock: Stopwatch, claims: Claims) -> None:
        super().__init__(worker, reporter, clock, claims)
        self.waiting = self._items()
        self.running: dict[ProcessHandle, WorkItem] = {}
        self.begun: dict[ProcessHandle, float] = {}
        """process -> when it began its item"""
        self.overtaken = set[ProcessHandle]()
        """processes that were ended because another worker has claimed their cells"""
        self.overdue = set[ProcessHandle]()
        """processes that were ended because their items took too long"""
        self.stopping = False
        """whether the processes were asked to stop"""

    def do(self) -> None:
        """Start processes, up to the number of jobs, and handle their messages, until every cell is done."""
        try:
            while self._something_to_do() and not self._something_free() and not stopping.asked():
                time.sleep(LOOK_SECONDS)  # do not load a model for nothing
            if not self.waiting or stopping.asked():
                return
            concurrency = self._choose_concurrency()
            if self.claims.shared:
                concurrency = replace(concurrency, threads=self.claims.agreed_threads(concurrency.threads))
            else:
                self.store.keep_threads(concurrency.threads)
            self.worker.results.threads, self.worker.results.jobs = concurrency.threads, concurrency.jobs
            self.jobs = self.reporter.jobs = concurrency.jobs
            while self.running or (self._something_to_do() and not stopping.asked()):
                while len(self.running) < self.jobs and (item := self._next()) is not None:
                    self._start(item, concurrency.threads)
                self._wait()
                if stopping.asked() and not self.stopping:
                    self.stopping = True
                    for process in self.running:
                        process.ask_to_stop()
                self._end_overdue()
                self._end_overtaken()
                for process in list(self.running):
                    self._handle_messages(process)
        finally:
            self._end_processes()

    def _something_to_do(self) -> bool:
        """Tell whether items are waiting that this process can begin, or may begin later if their owners die."""
        self._note_others()
        self.waiting = [item for item in self.waiting if not self._is_superfluous(item)]
        if self.waiting and self.claims.shared and not self.claims.waits and not self._something_free():
            self.waiting = []
        return bool(self.waiting)

    def _something_free(self, quantization: str | None = None) -> bool:
        """Tell whether a waiting cell can be claimed, of one quantization or of any."""
        cells = [item.cell for item in self.waiting if item.cell and quantization in (None, item.quantization)]
        return any(self.claims.free(cell.key) for cell in cells)

    def _is_superfluous(self, item: WorkItem) -> bool:
        """Tell whether other workers have done an item, or all cells that need it."""
        if item.cell is not None:
            return item.cell.key in self.done
        return not any(other.cell and other.quantization == item.quantization for other in self.waiting)

    def _choose_concurrency(self) -> Concurrency:
        """Return how many cells run at a time, and their number of threads, which stays the same in this folder."""
        raise NotImplementedError

    def _room_for(self, quantization: str) -> bool:
        """Tell whether the memory is enough for the base model of one more item."""
        raise NotImplementedError

    def _load_for(self, item: WorkItem) -> None:
        """Load the base model of an item, if this process does that, and note it in ``bases``."""

    def _process_for(self, item: WorkItem, earlier: EarlierResults, threads: int) -> ProcessHandle:
        """Make a process begin an item; return the process."""
        raise NotImplementedError

    def _wait(self) -> None:
        """Wait for a message or the end of a process, but not long."""
        processes.wait_for_any(list(self.running))

    def _release(self, process: ProcessHandle, item: WorkItem, result: Result | None) -> None:
        """Keep a process for its next item, or end it; the result is the cell's, None for the untouched base model."""

    def _must_repeat(self, process: ProcessHandle, item: WorkItem) -> bool:
        """Tell whether an item that has ended waits again, because another worker has its cell."""
        if item.cell is None:
            return False
        # The process may have seen it first, and have ended without a result: the cell has not failed.
        if process not in self.overtaken and item.cell.key not in self.claims.lost(at_once=True):
            return False
        self.claims.forget(item.cell.key)
        return True

    def _end_processes(self) -> None:
        """End all processes."""
        for process in self.running:
            process.kill()

    def _end_overdue(self) -> None:
        """End the processes whose items take longer than the recipe's time limit."""
        limit = self.recipe.train.time_limit or inf
        for process in self.running:
            if time.monotonic() - self.begun[process] > limit and process not in self.overdue:
                self.overdue.add(process)
                process.kill()

    def _end_overtaken(self) -> None:
        """End the processes of cells that another worker has claimed, because it saw no sign of life of this one."""
        lost = self.claims.lost()
        for process, item in self.running.items():
            if item.cell is not None and item.cell.key in lost:
                self.overtaken.add(process)
                process.kill()

    def _items(self) -> list[WorkItem]:
        """Return the items, the longest first, so that no long item runs alone at the end.

        Cells with a quantization that their method requires come first. The untouched base model, which is only
        measured, comes last for each quantization.
        """
        own = self.recipe.model.quantization
        items = []
        for quantization in sorted({cell.quantization for cell in self.todo}, key=lambda name: (name == own, name)):
            cells = [cell for cell in self.todo if cell.quantization == quantization]
            cells.sort(key=lambda cell: isinstance(cell, BaseCell))
            if any(needs_base(self.prepared, cell) for cell in cells):
                items.append(WorkItem(quantization))
            items += [WorkItem(quantization, cell) for cell in cells]
        return items

    def _next(self) -> WorkItem | None:
        """Return the next item that can start now, or None."""
        for item in self.waiting if not stopping.asked() else ():
            if self._can_start(item) and (item.cell is None or self._take(item.cell)):
                self.waiting.remove(item)
                return item
        return None

    def _can_start(self, item: WorkItem) -> bool:
        cell = item.cell
        if not self._room_for(item.quantization) or (cell is None and not self._something_free(item.quantization)):
            return False
        if cell is not None and needs_base(self.prepared, cell) and item.quantization not in self.of_base:
            # The cell waits until this is measured. Without a base model it need not wait, because it fails at once.
            return self._loading_error(item) is not None
        if not isinstance(cell, MethodCell):
            return True
        # The first cell of a label tunes for all its seeds, so its other cells wait for the result.
        running_cells = [running.cell for running in self.running.values()]
        tuning = {running.label for running in running_cells if isinstance(running, MethodCell) and running.ranges}
        return not (cell.ranges and cell.label in tuning and cell.label not in self.tunings)

    def _loading_error(self, item: WorkItem) -> Exception | None:
        """Return why the base model of an item cannot be loaded; None if that is not known."""
        base = self.bases.get(item.quantization)
        return base if isinstance(base, Exception) else None

    def _start(self, item: WorkItem, threads: int) -> None:
        """Start an item, or fail its cell if its base model cannot be loaded."""
        self._load_for(item)
        error, cell = self._loading_error(item), item.cell
        if cell is not None and cell.key in self.claims.lost(at_once=True):  # this worker was asleep meanwhile
            self.claims.forget(cell.key)
            self.waiting.append(item)
            return
        if cell is not None:
            self.reporter.start(cell.label, cell.seed)
        if error is None:
            if cell is not None:  # so that a result that exists at the end is from this item
                self.store.discard(cell.label, cell.seed)
            tuning = self.tunings.get(cell.label) if cell is not None else None
            claim = self.claims.claim_of(cell.key) if cell is not None else None
            earlier = EarlierResults(tuning, self.of_base.get(item.quantization), claim)
            process = self._process_for(item, earlier, threads)
            self.running[process], self.begun[process] = item, time.monotonic()
        elif cell is not None:
            self._finish(self.worker.fail(cell, failure_reason(error), "", keep_checkpoints=True))

    def _handle_messages(self, process: ProcessHandle) -> None:
        """Handle the messages of a process, and its result if its item has ended."""
        ended = not process.alive
        item = self.running[process]
        for message in process.messages():
            if message == DONE:
                ended = True
            else:
                self._handle_message(item, *message)
        if ended:
            del self.running[process], self.begun[process]
            if not process.alive:
                process.kill()  # ends the processes that it has left
            if self._must_repeat(process, item):
                self.waiting.append(item)
                self._release(process, item, None)
            else:
                self._release(process, item, self._handle_end(item, process))

    def _handle_message(self, item: WorkItem, name: str, *values: Any) -> None:
        """Handle a message that an item has sent; a cell sends the calls of its watch."""
        if item.cell is not None:
            getattr(CellWatch(self, item.cell), name)(*values)
        else:
            self.of_base[item.quantization], times = values
            for activity, seconds in times.items():
                self.clock.add(activity, seconds)

    def _handle_end(self, item: WorkItem, process: ProcessHandle) -> Result | None:
        """Keep the result of an item that has ended; return the cell's result, None for the untouched base model."""
        why = None if process.alive else process.failure()
        if process in self.overdue:
            why = too_long(self.recipe.train.time_limit)
        if item.cell is None:
            if item.quantization not in self.of_base:
                error = self._loading_error(item)
                why = failure_reason(error) if error else why or "its process sent nothing"
                of_base = self.of_base[item.quantization] = OfBase.unknown(why)
                problem = of_base.general if self.prepared.general is not None else of_base.examples
                self.reporter.say(f"{problem}\n{'' if error else process.output()}".strip())
            return None
        error = self._loading_error(item)
        if (written := self._written(item.cell)) is not None:
            result = written
        elif error is not None:
            result = self.worker.fail(item.cell, failure_reason(error), "", keep_checkpoints=True)
        elif self.stopping:
            return None
        else:
            why = why or "its process ended before the cell did"
            result = self.worker.fail(item.cell, why, process.output(), keep_checkpoints=True)
        self._finish(result)
        return result
