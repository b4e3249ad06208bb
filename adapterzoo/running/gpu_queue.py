"""Run cells on GPUs, in new processes that each use one GPU and load the base model themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adapterzoo.machine import gpu
from adapterzoo.machine.fresh_process import FreshProcess
from adapterzoo.machine.processes import ProcessHandle
from adapterzoo.machine.rank_processes import RankProcesses
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.claims import Claims
from adapterzoo.running import parallel
from adapterzoo.running.loading_queue import ItemHandler, LoadingQueue
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.work_item import EarlierResults, WorkItem
from adapterzoo.running.worker import Worker


def gpus_of_cells(recipe: Recipe, gpus: Sequence[str]) -> list[str]:
    """Return the groups of GPUs, each for one cell at a time: all together if a model is spread over them.

    Raises:
        UserError: there are too few GPUs for one group.
    """
    return gpu.groups(gpus, len(gpus) if recipe.model.device_map else recipe.train.devices)


class GpuQueue(LoadingQueue):
    """A queue with a process for each GPU, or as many as the recipe's ``jobs``."""

    def __init__(
        self, worker: Worker, reporter: Reporter, clock: Stopwatch, claims: Claims, gpus: Sequence[str]
    ) -> None:
        super().__init__(worker, reporter, clock, claims)
        self.gpus = gpus_of_cells(self.recipe, gpus)
        self.gpu_of: dict[ProcessHandle, str] = {}
        """process, running or idle -> its GPU, or the GPUs of its ranks"""

    def _choose_concurrency(self) -> Concurrency:
        kept = self.store.threads()
        concurrency = parallel.on_gpus(self.recipe, len(self.gpus), len(self.todo), kept)
        if (devices := self.worker.devices) > 1:
            threads = parallel.for_ranks(self.recipe, devices, len(self.todo), kept).threads
            concurrency = replace(concurrency, threads=threads)
        return concurrency

    def _process_for(self, item: WorkItem, earlier: EarlierResults, threads: int) -> ProcessHandle:
        process = next((idle for idle, held in self.idle.items() if held == item.quantization), None)
        if process is None:
            self.reporter.loading(item.quantization)
            full = len(self.gpu_of) >= self.jobs  # then an idle process has to load another base model
            process = next(iter(self.idle)) if full else self._new_process(threads)
        self.idle.pop(process, None)
        process.give((item, earlier))
        return process

    def _new_process(self, threads: int) -> ProcessHandle:
        """Start a process on the GPU that has the fewest, or its ranks on such a group of GPUs."""
        import torch

        used = list(self.gpu_of.values())
        chosen = min(self.gpus, key=used.count)
        handler = ItemHandler(self.worker, torch.cuda.is_available())
        visible = gpu.process_environment(chosen)
        process: ProcessHandle
        if (devices := self.worker.devices) > 1:
            process = RankProcesses(
                devices, lambda rank: FreshProcess(handler, threads, {**visible, **rank.environment()})
            )
        else:
            process = FreshProcess(handler, threads, visible)
        self.gpu_of[process] = chosen
        return process

    def _end(self, process: ProcessHandle) -> None:
        process.kill()
        del self.gpu_of[process]
        self.idle.pop(process, None)

    def _end_processes(self) -> None:
        for process in list(self.gpu_of):
            self._end(process)
