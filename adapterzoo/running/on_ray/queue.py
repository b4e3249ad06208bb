"""Run cells on the nodes of a Ray cluster."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from adapterzoo.errors import UserError
from adapterzoo.machine import stopping
from adapterzoo.machine.processes import ProcessHandle
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.results.claim_files import remove_claims
from adapterzoo.results.claims import Claims
from adapterzoo.results.probe import write_probe
from adapterzoo.running import parallel
from adapterzoo.running.loading_queue import ItemHandler, LoadingQueue
from adapterzoo.running.on_ray.agent import Order
from adapterzoo.running.on_ray.cluster import RayCluster
from adapterzoo.running.on_ray.files import CellFiles
from adapterzoo.running.on_ray.handler import MACHINE, packed
from adapterzoo.running.on_ray.model import SentModel, send_model
from adapterzoo.running.on_ray.pool import RayPool
from adapterzoo.running.on_ray.process import LostError, RayProcess, RemoteFiles
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.work_item import EarlierResults, WorkItem
from adapterzoo.running.worker import Worker

MAX_REPEATS = 3  # how many times an item is done again because its node was lost


class RayQueue(LoadingQueue):
    """A queue with a process for each place in the cluster, or as many as the recipe's ``jobs``.

    A place is what a cell needs: a GPU, or as many CPUs as it has threads, for each of its processes. Processes come
    and go with the nodes. A cell whose node is lost waits again, and goes on from its last checkpoint.
    """

    def __init__(
        self, worker: Worker, reporter: Reporter, clock: Stopwatch, claims: Claims, cluster: RayCluster
    ) -> None:
        super().__init__(worker, reporter, clock, claims)
        self.cluster = cluster
        self.threads = 1
        self.pool: RayPool | None = None
        """None before the first process is needed"""
        self.repeats = Counter[WorkItem]()
        """item -> how many times its node was lost"""

    def do(self) -> None:
        """See :meth:`WorkQueue.do`."""
        try:
            super().do()
        finally:
            remove_claims(self.store.folder)  # with the probe

    def _choose_concurrency(self) -> Concurrency:
        jobs = self.recipe.jobs
        self.threads = parallel.known_threads(self.recipe.threads, "auto", self.store.threads()) or 1
        if jobs == "auto":
            self.cluster.require_places(self.threads)
        self.cluster.require_versions(self._packages)
        wanted = self.cluster.places(self.threads) if jobs == "auto" else int(jobs)
        return Concurrency(max(1, min(len(self.todo), wanted)), self.threads)

    @cached_property
    def _packages(self) -> dict[str, str | None]:
        """The packages on which results depend, with their versions on this machine."""
        from adapterzoo.machine.environment import versions

        methods = {registry().package(cell.method) for cell in self.prepared.method_cells}
        return {**self.worker.results.packages(), **versions(sorted(methods))}

    @cached_property
    def _order(self) -> Order:
        location = self.prepared.location
        return Order(
            packages=self._packages,
            probe=(self.store.folder, write_probe(self.store.folder)),
            model=(location, self.prepared.weights) if Path(location).is_dir() else None,
            threads=self.threads,
            needs_gpu=self.cluster.gpus_of_a_cell() > 0,
            devices=self.cluster.devices,
        )

    def _new_pool(self) -> RayPool:
        """Return the processes in the cluster, of which there is none yet.

        Raises:
            UserError: the run cannot be pickled.
        """
        import ray

        handler = ItemHandler(self.worker, self._order.needs_gpu)
        try:
            content = packed(handler)
        except Exception as error:  # the code of a model may raise anything here
            what = f"this run cannot be sent to another machine ({type(error).__name__}: {error})."
            raise UserError.at(self.cluster.where, what) from None
        # The object store brings it to each node once.
        return RayPool(self.cluster, self._order, ray.put(content), lambda: self._model, self.reporter.say)

    @cached_property
    def _model(self) -> SentModel:
        """The files of the base model in the object store.

        Raises:
            UserError: the model comes with code, which is not sent.
        """
        recipe, location = self.prepared.recipe, self.prepared.location
        if recipe.model.trust_remote_code:
            what = "has code of its own, which is not sent to other machines, and a node does not have the same folder."
            raise UserError.at(f"model {location}", what, "Copy the folder to the same place on all machines.")
        return send_model(location, self.prepared.weights or "")

    def _wait(self) -> None:
        """See :meth:`WorkQueue._wait`; also start processes, and take those that have started."""
        self.pool = self.pool or self._new_pool()
        if self.recipe.jobs == "auto":
            self.jobs = self.reporter.jobs = max(1, min(len(self.todo), self.pool.places()))
        wanted = 0 if stopping.asked() else min(self.jobs, len(self.waiting) + len(self.running))
        for process in self.pool.fill(wanted, self.running):
            self._end(process)
        for process in self.pool.wait():
            self.idle[process] = ""  # it holds no base model yet
        for lost in [process for process in self.idle if not process.alive]:
            self._end(lost)

    def _next(self) -> WorkItem | None:
        return super()._next() if self.idle else None

    def _process_for(self, item: WorkItem, earlier: EarlierResults, threads: int) -> ProcessHandle:
        # Take one that holds this base model, or else one that holds none.
        process = min(self.idle, key=lambda idle: (self.idle[idle] != item.quantization, self.idle[idle] != ""))
        if self.idle.pop(process) != item.quantization:
            self.reporter.loading(item.quantization)
        assert isinstance(process, RayProcess)
        assert process.opened is not None
        process.files = None
        with suppress(LostError):  # then the item waits again
            if not process.opened.sees_folder and item.cell is not None:
                process.files = CellFiles(RemoteFiles(process), self.store, item.cell)
                process.files.send()
            process.give((item, earlier))
        return process

    def _handle_message(self, item: WorkItem, name: str, *values: Any) -> None:
        if name == MACHINE:
            # If a cell crashes, this process writes its result, which is of that machine.
            self.worker.results.machine = values[0]
        else:
            super()._handle_message(item, name, *values)

    def _handle_messages(self, process: ProcessHandle) -> None:
        assert isinstance(process, RayProcess)
        with suppress(LostError):
            if process.files is not None and process.lost is None:
                process.files.fetch_kept(process.report.kept)
                if process.ended:
                    process.files.fetch_result()
        super()._handle_messages(process)

    def _must_repeat(self, process: ProcessHandle, item: WorkItem) -> bool:
        if super()._must_repeat(process, item):
            return True
        assert isinstance(process, RayProcess)
        done = item.quantization in self.of_base if item.cell is None else self._written(item.cell) is not None
        if process.lost is None or process in self.overdue or done or self.repeats[item] == MAX_REPEATS:
            return False
        self.repeats[item] += 1
        what = f"{item.cell.label}, seed {item.cell.seed}" if item.cell else "the untouched base model"
        self.reporter.say(f"{process.node} was lost ({process.lost}): {what} is done elsewhere")
        return True

    def _end(self, process: ProcessHandle) -> None:
        assert isinstance(process, RayProcess)
        self.idle.pop(process, None)
        if self.pool is not None:
            self.pool.end([process])

    def _end_processes(self) -> None:
        self.idle.clear()
        if self.pool is not None:
            self.pool.close()
