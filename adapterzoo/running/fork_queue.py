"""Run cells in processes that are forked from this one, which holds the base models."""

from __future__ import annotations

import gc
from functools import partial

from adapterzoo.errors import UserError
from adapterzoo.machine.processes import ProcessHandle
from adapterzoo.machine.rank_processes import forked_ranks
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.results.claims import Claims
from adapterzoo.running import parallel
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.work_item import EarlierResults, WorkItem, do_item
from adapterzoo.running.work_queue import WorkQueue
from adapterzoo.running.worker import Worker


class ForkQueue(WorkQueue):
    """A queue whose processes are forked from this one, with the base models in memory that they share.

    This process computes nothing with the base models. What a cell breaks or changes is gone when its process ends.
    """

    def __init__(
        self, worker: Worker, reporter: Reporter, clock: Stopwatch, claims: Claims, forks_may_use_threads: bool
    ) -> None:
        super().__init__(worker, reporter, clock, claims)
        self.forks_may_use_threads = forks_may_use_threads
        self.largest_base = 0
        """size of the largest base model so far, in bytes"""

    def _choose_concurrency(self) -> Concurrency:
        jobs, wanted = self.recipe.jobs, self.recipe.threads
        if not self.forks_may_use_threads:
            if wanted not in ("auto", 1):
                what = f"{wanted} threads are not possible: torch has used several threads in this process."
                hint = "Set OMP_NUM_THREADS=1 before torch is imported, leave threads at auto, or set jobs: 0."
                raise UserError.at("threads", what, hint)
            wanted = 1
        base = self._load(self.waiting[0].quantization)
        if (devices := self.worker.devices) > 1:
            return parallel.for_ranks(self.recipe, devices, len(self.todo), self.store.threads())
        threads = parallel.known_threads(wanted, jobs, self.store.threads())
        if threads is not None:
            return parallel.for_threads(threads, jobs, len(self.todo))
        cells = [cell for cell in self.todo if cell.quantization == self.waiting[0].quantization]
        with self.clock("probing"):
            return parallel.probe(self.prepared, cells, base, jobs, len(self.todo), self.reporter.say)

    def _room_for(self, quantization: str) -> bool:
        from adapterzoo.machine.memory import available

        return quantization in self.bases or not self.running or available() > 2 * self.largest_base

    def _load_for(self, item: WorkItem) -> None:
        if item.quantization not in self.bases:
            self._load(item.quantization)

    def _process_for(self, item: WorkItem, earlier: EarlierResults, threads: int) -> ProcessHandle:
        base = self.bases[item.quantization]
        assert not isinstance(base, Exception)
        self.largest_base = max(self.largest_base, base.bytes)
        process = forked_ranks(self.worker.devices, partial(do_item, self.worker, item, base, earlier), threads)
        if not any(waiting.quantization == item.quantization for waiting in self.waiting):
            del self.bases[item.quantization]  # the forked processes still have it
            gc.collect()
        return process
