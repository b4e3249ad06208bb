"""Run cells in processes that load the base model themselves, and keep it for the next cell."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.entry_points import BUILT_IN
from adapterzoo.errors import AdapterzooError, UserError, failure_reason
from adapterzoo.machine import gpu, ranks
from adapterzoo.machine.memory import free_memory
from adapterzoo.machine.processes import ProcessHandle, Send
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.rank_processes import FAILED
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.metrics.registry import metric_packages
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.results.claims import Claims
from adapterzoo.results.result import Result
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.work_item import EarlierResults, WorkItem, do_item
from adapterzoo.running.work_queue import WorkQueue
from adapterzoo.running.worker import Worker

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


class LoadingQueue(WorkQueue):
    """A queue whose processes load the base model themselves.

    Starting a process and loading the model takes longer than forking. So a process takes another item, if possible
    with the base model that it holds. After a failed item or third-party code it is ended.
    """

    def __init__(self, worker: Worker, reporter: Reporter, clock: Stopwatch, claims: Claims) -> None:
        super().__init__(worker, reporter, clock, claims)
        self.idle: dict[ProcessHandle, str] = {}
        """process that waits for an item -> quantization of the base model that it holds"""
        self.loaded = set[str]()
        """quantizations with which some process has loaded the base model"""
        self.failed_loads: dict[WorkItem, Exception] = {}
        """item -> why its process could not load the base model"""
        self.third_party_metrics = bool(metric_packages(self.recipe.evaluate.metrics))

    def _room_for(self, quantization: str) -> bool:
        return True

    def _next(self) -> WorkItem | None:
        for process in [idle for idle in self.idle if not idle.alive]:
            self._end(process)
        held = set(self.idle.values())
        # Put the items first whose base model an idle process already holds.
        self.waiting.sort(key=lambda item: item.quantization not in held)
        return super()._next()

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
        third_party = isinstance(item.cell, MethodCell) and registry().package(item.cell.method) != BUILT_IN
        third_party = third_party or self.third_party_metrics
        failed = item in self.failed_loads or (result is not None and not result.ok)
        if process.alive and not third_party and not failed:
            self.idle[process] = item.quantization
        else:
            self._end(process)

    def _end(self, process: ProcessHandle) -> None:
        """End a process for good."""
        raise NotImplementedError


@dataclass
class ItemHandler:
    """Does the items in a process of a :class:`LoadingQueue`, and keeps the base model from item to item."""

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
            if self.worker.devices > 1:
                ranks.join()  # before the model is loaded, because it decides which GPU this process uses
            if self.needs_gpu:
                self.worker.results.use_this_gpu()
            self.base = self.worker.load(quantization)
        except UserError as problem:
            error = problem
        except Exception as problem:  # send its text, because not every error can be sent to another process
            error = AdapterzooError(failure_reason(problem))
        send(("loaded", error, time.monotonic() - begun))
        if error is not None and ranks.number() > 0:
            send((FAILED, failure_reason(error)))  # rank 0 may have loaded it, and would wait for this one
        return self.base
