"""Runs a recipe: every cell trained and measured, each result written as it ends."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo import parallel, processes
from adapterzoo.errors import AdapterzooError, Problem, UserError
from adapterzoo.parallel import Parallel
from adapterzoo.plan import Cell
from adapterzoo.prepare import prepare, quiet_libraries
from adapterzoo.processes import Process
from adapterzoo.progress import Reporter, Sender, Watch
from adapterzoo.reading import kept_recipe
from adapterzoo.recipe import Recipe
from adapterzoo.registry import registry
from adapterzoo.results import RESULT, SETTINGS, Result, Tuning, read_result
from adapterzoo.stopwatch import Stopwatch
from adapterzoo.store import Store, changed_files
from adapterzoo.terminal import duration
from adapterzoo.tuning import chosen
from adapterzoo.worker import Worker, reason

if TYPE_CHECKING:
    from adapterzoo.base import Base
    from adapterzoo.evaluate import Likelihood


def run(
    recipe: Recipe,
    out: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    reporter: Reporter | None = None,
) -> list[Result]:
    """Train and measure every cell that has no result yet; returns the results of all.

    A cell that fails becomes a result with its reason, and the others go on. ``out`` is an absolute path: a method may
    change the working directory.

    Raises:
        UserError: the recipe, the data, the model or the folder is at fault; nothing was trained.
    """
    # A process that has used several threads cannot be forked into ones that do.
    fresh = "torch" not in sys.modules or processes.threads() == 1
    reporter = reporter or Reporter()
    apart = recipe.jobs != 0 and processes.available()
    before = processes.threads()
    if apart:
        processes.set_threads(1)
    try:
        return _run(recipe, out, methods, seeds, reporter, fresh if apart else None)
    finally:
        processes.set_threads(before)


def _run(
    recipe: Recipe, out: Path, methods: Sequence[str], seeds: Sequence[int], reporter: Reporter, fresh: bool | None
) -> list[Result]:
    """Do a run; ``fresh`` is None where its cells are to be done in this process."""
    clock = Stopwatch()
    with clock("preparing"):
        prepared = prepare(recipe, methods, seeds, reporter.say)
    store = Store(out)
    resolved = prepared.recipe.resolved()
    recipe_hash = store.check(resolved, prepared.encoded.fingerprint, prepared.weights)
    with quiet_libraries():
        worker = Worker(prepared, store, recipe_hash)
        runner = _Here(worker, reporter, clock) if fresh is None else _InProcesses(worker, reporter, clock, fresh)
        cells = [(cell.label, cell.seed) for cell in prepared.cells]
        store.begin(kept_recipe(prepared.recipe, registry()), recipe_hash, cells)
        reporter.begin(len(cells), out)
        try:
            results = runner.all()
            if runner.todo:
                times = runner.times()
                store.keep_times(times)
                reporter.say(told(times))
            return results
        finally:
            store.release()


def told(times: Mapping[str, float]) -> str:
    """Return where the time of a run went, in a line."""
    parts = sorted(times.items(), key=lambda item: -item[1])
    whole = sum(times.values())
    shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in parts if seconds >= whole / 100)
    return f"time of all processes: {duration(whole)}: {shares}"


class _Runner:
    """One run of a recipe into one folder: what cells share, and in which order they are done."""

    def __init__(self, worker: Worker, reporter: Reporter, clock: Stopwatch) -> None:
        self.worker = worker
        self.clock = clock
        self.jobs = 1
        self.prepared = worker.prepared
        self.recipe = worker.prepared.recipe  # with what the data made of it
        self.store = worker.store
        self.reporter = reporter
        self.kept = self._whole(_finished(self.prepared.cells, self.store))
        self.todo = [cell for cell in self.prepared.cells if (cell.label, cell.seed) not in self.kept]
        self.done: dict[tuple[str, int], Result] = {}
        self.loaded = False
        """whether a base was loaded, or tried to be"""
        self.bases: dict[str, Base | Exception] = {}
        """what is loaded, or why it cannot be, by quantization"""
        self.general: dict[str, list[Likelihood] | AdapterzooError] = {}
        """how likely the general text is to each base, or why that is not known, by its quantization"""
        self.tunings: dict[str, Tuning | AdapterzooError] = {
            label: result.tuning for (label, _), result in self.kept.items() if result.tuning
        }
        """what was chosen, or why nothing was, by label: all seeds of a label have the same"""

    def all(self) -> list[Result]:
        """Do what has no result yet; returns the results of all, in the order of the plan."""
        for cell in self.prepared.cells:
            if (result := self.kept.get((cell.label, cell.seed))) is not None:
                self.reporter.start(cell.label, cell.seed)
                self._finish(result, kept=True)
        if self.todo:
            with self.clock("cells"):
                self.do()
        return [self.done[cell.label, cell.seed] for cell in self.prepared.cells]

    def do(self) -> None:
        """Do the cells that are to be done."""
        raise NotImplementedError

    def times(self) -> dict[str, float]:
        """Return what the seconds of all processes were spent on; while one prepares, the others wait."""
        times = dict(self.clock.seconds)
        there = times.pop("cells") * self.jobs
        for cell in self.todo:
            for name, seconds in self.done[cell.label, cell.seed].seconds.items():
                times[name] = times.get(name, 0.0) + seconds
        at_work = sum(seconds for name, seconds in times.items() if name != "preparing")
        times["waiting"] = max(0.0, there - at_work) + times["preparing"] * (self.jobs - 1)
        return {name: round(seconds, 2) for name, seconds in times.items()}

    def _whole(self, finished: dict[tuple[str, int], Result]) -> dict[tuple[str, int], Result]:
        """Return the results whose adapters are what was written; the other cells are trained again."""
        kept = {}
        for (label, seed), result in finished.items():
            if changed := changed_files(self.store.cell(label, seed), result):
                self.reporter.say(f"{label}, seed {seed}: {changed[0]} is not what was written: trained again")
            else:
                kept[label, seed] = result
        return kept

    def _load(self, quantization: str) -> Base | Exception:
        """Return a base; where others were used before, what keeps it from loading is the failure of its own cells."""
        from adapterzoo import base

        self.reporter.loading(quantization)
        first, self.loaded = not self.loaded, True
        try:
            with self.clock("loading"):
                self.bases[quantization] = base.load(
                    self.recipe.model,
                    self.prepared.location,
                    quantization,
                    self.recipe.data.max_length,
                    self.prepared.vocabulary,
                )
        except Exception as error:
            if first:
                raise
            self.bases[quantization] = error
        return self.bases[quantization]

    def _measure_general(self, base: Base) -> list[Likelihood]:
        """Return how likely each paragraph of the general text is to a base."""
        assert self.prepared.general is not None
        with base.lend() as model:
            return self.prepared.general.measure(model)

    def _finish(self, result: Result, kept: bool = False) -> None:
        self.done[result.label, result.seed] = result
        self.reporter.finish(result, kept)


class _Here(_Runner):
    """Cell after cell in this process, each base loaded once."""

    def do(self) -> None:
        kept = self.store.threads()
        self.worker.threads = parallel.known_threads(self.recipe.threads, "auto", kept) or parallel.cores()
        processes.set_threads(self.worker.threads)
        self.store.keep_threads(self.worker.threads)
        for cell in self.todo:
            base = self.bases.get(cell.base)
            if base is None:
                self.bases = {name: held for name, held in self.bases.items() if isinstance(held, Exception)}
                gc.collect()
                base = self._load(cell.base)
            self.reporter.start(cell.label, cell.seed)
            self._finish(self._one(cell, base))

    def _one(self, cell: Cell, base: Base | Exception) -> Result:
        try:
            if isinstance(base, Exception):
                raise base
            if self.prepared.general is not None and cell.base not in self.general:
                with self.clock("general text"):
                    self.general[cell.base] = self._measure_general(base)
        except Exception as error:
            return self.worker.fail(self.worker.begin(cell), reason(error), "", keep_checkpoints=True)
        tuning, general = self.tunings.get(cell.label), self.general.get(cell.base)
        return self.worker.do(cell, base, _Told(self, cell), tuning=tuning, general=general)


@dataclass(frozen=True, eq=False)
class _Task:
    """What one process does: a cell, or how likely the general text is to a base."""

    base: str
    """its quantization"""
    cell: Cell | None = None


class _InProcesses(_Runner):
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
        self.waiting = self._tasks()
        self._load(self.waiting[0].base)
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
        """Return what there is to do. Bases that methods demand first: they are quantized, and take the longest."""
        own = self.recipe.model.quantization
        tasks = []
        for quantization in sorted({cell.base for cell in self.todo}, key=lambda name: (name == own, name)):
            cells = [cell for cell in self.todo if cell.base == quantization]
            if self.prepared.general is not None and any(cell.method for cell in cells):
                tasks.append(_Task(quantization))
            tasks += [_Task(quantization, cell) for cell in cells]
        return tasks

    def _choose(self) -> Parallel:
        """Return how the machine is shared out, the same for all runs into this folder."""
        jobs, wanted = self.recipe.jobs, self.recipe.threads
        if not self.fresh:
            if wanted not in ("auto", 1):
                cure = "Set OMP_NUM_THREADS=1 before torch is imported, leave threads at auto, or set jobs: 0."
                raise UserError.at("threads", f"{wanted} threads: this process has used torch with several.", cure)
            wanted = 1
        threads = parallel.known_threads(wanted, jobs, self.store.threads())
        if threads is not None:
            how = parallel.for_threads(threads, jobs, len(self.todo))
        else:
            base = self.bases[self.waiting[0].base]
            cells = [cell for cell in self.todo if cell.base == self.waiting[0].base]
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
        if task.base not in self.bases and self.running and not self._room_for_another():
            return False
        if cell is None or cell.method is None:
            return True
        if self.prepared.general is not None and task.base not in self.general:
            return isinstance(self.bases.get(task.base), Exception)
        # Settings are chosen by the first seed of a label.
        busy = {other.cell.label for other in self.running.values() if other.cell and other.cell.ranges}
        return not (cell.ranges and cell.label in busy and cell.label not in self.tunings)

    def _room_for_another(self) -> bool:
        """Whether a second base can be loaded beside those that are at work."""
        from adapterzoo.memory import available

        return available() > 2 * max(self.bytes.values(), default=0)

    def _begin(self, task: _Task, threads: int) -> None:
        base = self.bases.get(task.base) or self._load(task.base)
        cell = task.cell
        if cell is not None:
            self.reporter.start(cell.label, cell.seed)
        if isinstance(base, Exception):
            if cell is not None:
                self._finish(self.worker.fail(self.worker.begin(cell), reason(base), "", keep_checkpoints=True))
        else:
            self.bytes[task.base] = base.bytes
            if cell is not None:  # what is there afterwards is of this process
                (self.store.cell(cell.label, cell.seed) / RESULT).unlink(missing_ok=True)
            self.running[Process(lambda send: self._work(task, base, send), threads)] = task
        if not any(other.base == task.base for other in self.waiting):
            del self.bases[task.base]  # the processes have their own
            gc.collect()

    def _work(self, task: _Task, base: Base, send: processes.Send) -> None:
        """In the new process: do a task."""
        if task.cell is None:
            begun = time.monotonic()
            send(("general", self._measure_general(base), time.monotonic() - begun))
            return
        tuning, general = self.tunings.get(task.cell.label), self.general.get(task.base)
        self.worker.do(task.cell, base, Sender(send), tuning=tuning, general=general)

    def _hear(self, process: Process) -> None:
        """Take in what a process says, and what came of it where it has ended."""
        ended = not process.alive
        task = self.running[process]
        for name, *values in process.messages():
            if task.cell is None:
                self.general[task.base], seconds = values
                self.clock.add("general text", seconds)
            else:
                getattr(_Told(self, task.cell), name)(*values)
        if ended:
            del self.running[process]
            self._ended(task, process)

    def _ended(self, task: _Task, process: Process) -> None:
        why = process.failure()
        if task.cell is None:
            if task.base not in self.general:
                what = f"the general text could not be measured: {why or 'its process sent nothing'}"
                self.general[task.base] = AdapterzooError(what)
                self.reporter.say(f"{what}\n{process.output()}")
            return
        path = self.store.cell(task.cell.label, task.cell.seed) / RESULT
        if path.is_file():
            result = read_result(path)
        else:
            why = why or "its process ended before the cell did"
            failed = self.worker.begin(task.cell)
            result = self.worker.fail(failed, why, process.output(), keep_checkpoints=True)
        self._finish(result)


class _Told(Watch):
    """Passes on how a cell goes to the run's reporter, and what was chosen for its label to its other seeds."""

    def __init__(self, runner: _Runner, cell: Cell) -> None:
        self._runner, self._cell = runner, (cell.label, cell.seed)

    def phase(self, name: str) -> None:
        self._runner.reporter.phase(*self._cell, name)

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        self._runner.reporter.step(*self._cell, step, steps, loss, tokens)

    def say(self, message: str) -> None:
        self._runner.reporter.say(message)

    def tuned(self, found: Tuning | AdapterzooError) -> None:
        self._runner.tunings[self._cell[0]] = found


def _finished(cells: Sequence[Cell], store: Store) -> dict[tuple[str, int], Result]:
    """The results that are there already; those of failures are not.

    Raises:
        UserError: a label holds results that were made with other settings.
    """
    kept, problems = {}, []
    # Of all seeds: those that are not asked for today stand in the same row.
    wanted = {cell.label: cell for cell in cells}
    for result in (result for label in wanted for result in store.of(label) if result.ok):
        cell = wanted[result.label]
        kept[result.label, result.seed] = result
        if result.tuning:
            cell = chosen(cell, result.tuning["chosen"])
        for name in SETTINGS:
            there, here = getattr(result, name), getattr(cell, name)
            if there != here:
                what = f"holds '{cell.label}' with other settings ({name}: {there!r} there, {here!r} here)."
                cure = "Give it another label, remove that folder, or give --out another."
                problems.append(Problem(str(store.cell(result.label, result.seed)), what, cure))
                break
    if problems:
        raise UserError(*problems)
    return kept
