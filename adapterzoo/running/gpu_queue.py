"""Run cells on GPUs, in new processes that each use one GPU and load the base model themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.entry_points import BUILT_IN
from adapterzoo.errors import AdapterzooError, UserError, failure_reason
from adapterzoo.machine import gpu
from adapterzoo.machine.fresh_process import FreshProcess
from adapterzoo.machine.memory import free_memory
from adapterzoo.machine.processes import ProcessHandle, Send
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.metrics.registry import metric_packages
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.results.claims import Claims
from adapterzoo.results.result import Result
from adapterzoo.running import parallel
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.work_queue import EarlierResults, WorkItem, WorkQueue, do_item
from adapterzoo.running.worker import Worker

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


class GpuQueue(WorkQueue):
    """A queue with a process for each GPU, or as many as the recipe's ``jobs``.

    Starting a process and loading the model takes longer than on a CPU. So a process takes another item, if possible
    with the base model that it holds. After a failed item or third-party code it is ended.
    """

    def __init__(
        self, worker: Worker, reporter: Reporter, clock: Stopwatch, claims: Claims, gpus: Sequence[str]
    ) -> None:
        super().__init__(worker, reporter, clock, claims)
        self.gpus = gpus
        self.gpu_of: dict[ProcessHandle, str] = {}
        """process, running or idle -> its GPU"""
        self.idle: dict[FreshProcess, str] = {}
        """process that waits for an item -> quantization of the base model that it holds"""
        self.loaded = set[str]()
        """quantizations with which some process has loaded the base model"""
        self.failed_loads: dict[WorkItem, Exception] = {}
        """item -> why its process could not load the base model"""
        self.third_party_metrics = bool(metric_packages(self.recipe.evaluate.metrics))

    def _choose_concurrency(self) -> Concurrency:
        return parallel.on_gpus(self.recipe, len(self.gpus), len(self.todo), self.store.threads())

    def _room_for(self, quantization: str) -> bool:
        return True

    def _next(self) -> WorkItem | None:
        for process in [idle for idle in self.idle if not idle.alive]:
            self._end(process)
        held = set(self.idle.values())
        # Put the items first whose base model an idle process already holds.
        self.waiting.sort(key=lambda item: item.quantization not in held)
        return super()._next()

    def _process_for(self, item: WorkItem, earlier: EarlierResults, threads: int) -> ProcessHandle:
        process = next((idle for idle, held in self.idle.items() if held == item.quantization), None)
        if process is None:
            self.reporter.loading(item.quantization)
            full = len(self.gpu_of) >= self.jobs  # then an idle process has to load another base model
            process = next(iter(self.idle)) if full else self._new_process(threads)
        self.idle.pop(process, None)
        process.give((item, earlier))
        return process

    def _new_process(self, threads: int) -> FreshProcess:
        """Start a process on the GPU that has the fewest."""
        import torch

        used = list(self.gpu_of.values())
        chosen = min(self.gpus, key=used.count)
        handler = ItemHandler(self.worker, torch.cuda.is_available())
        process = FreshProcess(handler, threads, {gpu.VISIBLE: chosen})
        self.gpu_of[process] = chosen
        return process

    def _handle_message(self, item: WorkItem, name: str, *values: Any) -> None:
        if name != "loaded":
            super()._handle_message(item, name, *values)
            return
        error, seconds = values
        self.clock.add("loading", seconds)
        if error is None:
            self.loaded.add(item.quantization)
            return
        if not self.loaded:
            raise error
        self.failed_loads[item] = error
        if item.quantization not in self.loaded:  # then no process can load it
            self.bases[item.quantization] = error

    def _loading_error(self, item: WorkItem) -> Exception | None:
        return self.failed_loads.get(item) or super()._loading_error(item)

    def _release(self, process: ProcessHandle, item: WorkItem, result: Result | None) -> None:
        assert isinstance(process, FreshProcess)
        third_party = isinstance(item.cell, MethodCell) and registry().package(item.cell.method) != BUILT_IN
        third_party = third_party or self.third_party_metrics
        failed = item in self.failed_loads or (result is not None and not result.ok)
        if process.alive and not third_party and not failed:
            self.idle[process] = item.quantization
        else:
            self._end(process)

    def _end(self, process: ProcessHandle) -> None:
        process.kill()
        del self.gpu_of[process]
        if isinstance(process, FreshProcess):
            self.idle.pop(process, None)

    def _end_processes(self) -> None:
        for process in list(self.gpu_of):
            self._end(process)


@dataclass
class ItemHandler:
    """Does the items in a process that uses one GPU, and keeps the base model from item to item."""

    worker: Worker
    needs_gpu: bool
    """whether it is an error if this process finds no GPU"""
    base: Base | None = None

    def __call__(self, message: tuple[WorkItem, EarlierResults], send: Send) -> None:
        """Do an item and send its messages."""
        item, earlier = message
        with quiet_libraries(), gpu.repeatable():
            if (base := self._load(item.quantization, send)) is not None:
                do_item(self.worker, item, base, earlier, send)

    def _load(self, quantization: str, send: Send) -> Base | None:
        """Return the base model with a quantization; send why it cannot be loaded, and return None then."""
        if self.base is not None and self.base.quantization == quantization:
            return self.base
        self.base = None
        free_memory()
        begun = time.monotonic()
        error: AdapterzooError | None = None
        try:
            if self.needs_gpu:
                self.worker.results.device = gpu.name()
            self.base = self.worker.load(quantization)
        except UserError as problem:
            error = problem
        except Exception as problem:  # send its text, because not every error can be sent to another process
            error = AdapterzooError(failure_reason(problem))
        send(("loaded", error, time.monotonic() - begun))
        return self.base
