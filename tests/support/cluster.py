"""Many workers that share a folder in virtual time: the real queue and the real claims, with a training that sleeps."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from virtual_time import VirtualTime

from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.recipe.schema import Range
from adapterzoo.results import claims as claims_module
from adapterzoo.results.claim_files import CellKey, ClaimFile, ClaimFolder, remove_claims
from adapterzoo.results.claims import SharedClaims
from adapterzoo.results.result import Result
from adapterzoo.results.store import Store
from adapterzoo.running import work_queue
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.work_item import EarlierResults, WorkItem
from adapterzoo.running.work_queue import WorkQueue

NEW_FILE_OPERATIONS = 5  # make a temporary file, write it to the disk, link it, remove it
CHECKPOINT_SECONDS = 60.0
NAMES = "names in these lists"


@dataclass(frozen=True)
class Settings:
    """The number of cells and workers of a simulation, and what happens to them."""

    cells: int = 1000
    labels: int = 10
    workers: int = 64
    seconds: tuple[float, float] = (300.0, 900.0)
    """shortest and longest time of a cell; a slow one takes six times as long"""
    slow: float = 0.03
    """share of the cells that are slow"""
    dying: int = 0
    """number of workers whose machines die; each comes back after ten minutes"""
    sleeping: int = 0
    """number of workers that are suspended for longer than others wait"""
    stopped: int = 0
    """number of workers that are asked to stop, as a batch system does; each is started again after five minutes"""
    late: float = 30.0
    """seconds for which a machine may see an old state of the shared folder"""
    latency: float = 0.001
    """seconds that each operation on a file takes"""
    patience: float = 180.0
    look: float = 5.0
    """seconds between two looks of a worker at its own process"""
    tuned: bool = False
    seed: int = 0


@dataclass
class Attempt:
    """One time that a worker began a cell."""

    machine: Machine
    cell: CellKey
    begun: float
    ended: float | None = None
    wrote: bool = False


@dataclass(eq=False)
class Machine:
    """A machine with one worker."""

    name: str
    started: float
    dead: bool = False
    died: float | None = None
    asleep_until: float = 0.0
    slept: bool = False
    asked: bool = False
    ended: float | None = None
    computed: float = 0.0


class LateFolder(ClaimFolder):
    """The claims as one machine sees them: real files, whose state it may have read some time ago."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self._cluster = cluster
        self._read = -1e9
        self._cache: dict[CellKey, ClaimFile] | None = None

    def find(self, without: Container[CellKey] = ()) -> dict[CellKey, ClaimFile] | None:
        if self._cluster.time.now - self._read >= self._cluster.settings.late:
            found = super().find(without)
            self._read, self._cache = self._cluster.time.now, found
            self._cluster.count("list the claims", 1)
            self._cluster.count(NAMES, 0, len(os.listdir(self._folder)) if found is not None else 0)
            self._cluster.count("look at a claim", len(found or ()))
        if self._cache is None:
            return None
        return {cell: claim for cell, claim in self._cache.items() if cell not in without}

    def create(self, cell: CellKey, number: int, *patience: float) -> bool:
        created = super().create(cell, number, *patience)
        if created:
            self._cluster.created[cell, number] = self._cluster.time.now
            self._set_time(cell, number)
        self._cluster.count("make a claim" if created else "try a claim that another has", NEW_FILE_OPERATIONS)
        return created

    def changed(self, cell: CellKey, number: int) -> int | None:
        self._cluster.count("look at a claim", 1)
        return super().changed(cell, number)

    def renew(self, cell: CellKey, number: int) -> None:
        self._cluster.count("renew a claim", 1)
        self._set_time(cell, number)

    def remove(self, cell: CellKey, number: int) -> None:
        self._cluster.count("remove a claim", 1)
        super().remove(cell, number)

    def is_overtaken(self, cell: CellKey, number: int) -> bool:
        self._cluster.count("look for a claim that follows", 1)
        created = self._cluster.created.get((cell, number + 1))
        late = created is not None and self._cluster.time.now - created < self._cluster.settings.late
        return not late and super().is_overtaken(cell, number)

    def owner_has_ended(self, cell: CellKey, number: int) -> bool:
        return False  # it is on another machine

    def _set_time(self, cell: CellKey, number: int) -> None:
        nanoseconds = int(self._cluster.time.now * 1e9)
        with suppress(OSError):
            os.utime(self.path(cell, number), ns=(nanoseconds, nanoseconds))


class Training:
    """The process of a cell: it sleeps as long as the training takes, and keeps its checkpoints."""

    def __init__(self, cluster: Cluster, files: ClaimFolder, cell: CellKey, claim: Path | None) -> None:
        self._cluster, self._files, self._cell = cluster, files, cell
        self._number = int(claim.name.rpartition(".")[2]) if claim else 0
        self.machine: Machine = cluster.time.machine
        self.alive, self._stopping = True, False
        self.attempt = Attempt(self.machine, cell, cluster.time.now)
        cluster.attempts.append(self.attempt)
        cluster.time.start(self.machine, self._train)

    def _train(self) -> None:
        cluster, left = self._cluster, self._cluster.left[self._cell]
        while left > 0 and self.alive and not self._stopping:
            part = min(CHECKPOINT_SECONDS, left)
            cluster.time.sleep(part)
            left -= part
            if self.alive:
                self.machine.computed += part
                cluster.left[self._cell] = min(cluster.left[self._cell], left)
        if self.alive and left <= 0 and not self._files.is_overtaken(self._cell, self._number):
            cluster.results.setdefault(self._cell, []).append((cluster.time.now, self.machine))
            cluster.count("write a result", 3 * NEW_FILE_OPERATIONS)
            self.attempt.wrote = True
        self.attempt.ended = cluster.time.now
        self.alive = False

    def kill(self) -> None:
        self.alive = False
        self.attempt.ended = self.attempt.ended or self._cluster.time.now

    def ask_to_stop(self) -> None:
        self._stopping = True

    def messages(self) -> Iterator[Any]:
        return iter(())

    def failure(self) -> str:
        return "it ended"

    def output(self) -> str:
        return ""


class Queue(WorkQueue):
    """The real queue, whose processes only sleep."""

    cluster: Cluster
    files: ClaimFolder

    def _choose_concurrency(self) -> Concurrency:
        return Concurrency(1, 1)

    def _room_for(self, quantization: str) -> bool:
        return True

    def _process_for(self, item: WorkItem, earlier: EarlierResults, threads: int) -> Any:
        assert item.cell is not None
        return Training(self.cluster, self.files, item.cell.key, earlier.claim)

    def _wait(self) -> None:
        self.cluster.time.sleep(self.cluster.settings.look)

    def _written(self, cell: Any) -> Result | None:
        self.cluster.count("look for a result", 1)
        now, machine = self.cluster.time.now, self.cluster.time.machine
        late = self.cluster.settings.late
        for written, writer in self.cluster.results.get(cell.key, ()):
            if writer is machine or written + late <= now:
                return Result(cell.label, cell.method, cell.seed, cell.quantization)
        return None


class Cluster:
    """A simulation of workers on machines that share a folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.random = random.Random(settings.seed)
        self.time = VirtualTime()
        self.operations = Counter[str]()
        self.machines: list[Machine] = []
        self.attempts: list[Attempt] = []
        self.results: dict[CellKey, list[tuple[float, Machine]]] = {}
        self.failed: list[CellKey] = []
        self.created: dict[tuple[CellKey, int], float] = {}
        self.cells = self._cells()
        self.total = {cell.key: self._seconds() for cell in self.cells}
        self.left = dict(self.total)

    def count(self, name: str, operations: int, silent: int = 0) -> None:
        """Count operations on files, and let their time pass."""
        self.operations[name] += operations + silent
        if operations:
            self.time.sleep(operations * self.settings.latency)

    def run(self) -> None:
        """Let all workers come, and let some of them die, sleep or stop, until all cells are done."""
        (self.folder / ".claims").mkdir(parents=True, exist_ok=True)
        for number in range(self.settings.workers):
            self._begin_worker(f"machine {number}", self.random.uniform(0, 60))
        chosen = self.random.sample(self.machines, self.settings.dying + self.settings.sleeping + self.settings.stopped)
        average = sum(self.total.values()) / self.settings.workers
        for number, machine in enumerate(chosen):
            kind = self._die if number < self.settings.dying else self._suspend
            kind = self._stop if number >= self.settings.dying + self.settings.sleeping else kind
            fate = Machine("fate", 0.0)
            self.time.start(fate, partial(kind, machine), self.random.uniform(0.1, 0.9) * average)
        with self._patched():
            self.time.run()

    def repeated_without_reason(self) -> list[CellKey]:
        """Return the cells that a worker began after another one that was neither dead, nor stopped, nor asleep."""
        found = []
        for cell in {attempt.cell for attempt in self.attempts}:
            attempts = [attempt for attempt in self.attempts if attempt.cell == cell]
            for before in attempts[:-1]:
                machine = before.machine
                if not (machine.died is not None or machine.slept or machine.asked):
                    found.append(cell)
        return found

    def operations_per_cell(self) -> float:
        """Return how many operations on files a cell took; a name in a list counts for nothing."""
        return (sum(self.operations.values()) - self.operations[NAMES]) / len(self.cells)

    def utilisation(self) -> float:
        """Return the share of the workers' time in which they did work that was needed."""
        end = max(machine.ended or 0.0 for machine in self.machines)
        present = sum((machine.ended or machine.died or end) - machine.started for machine in self.machines)
        return sum(self.total.values()) / present

    def _cells(self) -> list[MethodCell]:
        ranges = {"learning_rate": Range(values=[1e-4, 1e-3])} if self.settings.tuned else {}
        return [
            MethodCell(
                label=f"m{number % self.settings.labels}",
                method="m",
                seed=number // self.settings.labels,
                quantization="none",
                learning_rate=1e-4,
                ranges=ranges,
            )
            for number in range(self.settings.cells)
        ]

    def _seconds(self) -> float:
        seconds = self.random.uniform(*self.settings.seconds)
        return seconds * (6 if self.random.random() < self.settings.slow else 1)

    def _begin_worker(self, name: str, delay: float) -> None:
        machine = Machine(name, self.time.now + delay)
        self.machines.append(machine)
        self.time.start(machine, lambda: self._work(machine), delay)

    def _work(self, machine: Machine) -> None:
        train = SimpleNamespace(time_limit=None)
        prepared: Any = SimpleNamespace(
            recipe=SimpleNamespace(model=SimpleNamespace(quantization="none"), train=train),
            cells=self.cells,
            encoded=SimpleNamespace(asks_base=False),
            general=None,
        )
        store, results = Store(self.folder), SimpleNamespace()
        worker: Any = SimpleNamespace(
            prepared=prepared, store=store, results=results, outdated=lambda _: None, fail=self._fail
        )
        files = LateFolder(self.folder, self)
        claims = SharedClaims(files, self.settings.patience)
        queue = Queue(worker, Reporter(), Stopwatch(), claims)
        queue.cluster, queue.files = self, files
        try:
            done = queue.run()
        finally:
            claims.close()
        if len(done) == len(self.cells):
            remove_claims(self.folder)
        machine.ended = self.time.now

    def _fail(self, cell: Any, *_: Any, **__: Any) -> Result:
        self.failed.append(cell.key)
        return Result(cell.label, cell.method, cell.seed, cell.quantization, status="failed")

    def _die(self, machine: Machine) -> None:
        if machine.ended is None:
            machine.dead, machine.died = True, self.time.now
            self._begin_worker(f"{machine.name} again", 600.0)

    def _suspend(self, machine: Machine) -> None:
        machine.asleep_until, machine.slept = self.time.now + 3 * self.settings.patience, True

    def _stop(self, machine: Machine) -> None:
        machine.asked = True
        self._begin_worker(f"{machine.name} again", 300.0)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        clock, threads = self.time.time_module(), self.time.threading_module()
        stopping = SimpleNamespace(asked=lambda: self.time.machine.asked)
        replaced: Sequence[tuple[Any, str, Any]] = (
            (claims_module, "time", clock),
            (claims_module, "threading", threads),
            (work_queue, "time", clock),
            (work_queue, "stopping", stopping),
            (os, "fsync", lambda _: None),  # it would take most of the real time
        )
        with ExitStack() as stack:
            for module, name, value in replaced:
                stack.enter_context(mock.patch.object(module, name, value))
            yield
