"""What the cells of a run share, and their order; here one after the other in this process."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapterzoo.errors import AdapterzooError, Problem, UserError
from adapterzoo.machine import processes
from adapterzoo.machine.memory import keep_freed_memory
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.settings import chosen
from adapterzoo.results.result import Result, Tuning
from adapterzoo.results.store import Store, changed_files
from adapterzoo.running import parallel
from adapterzoo.running.progress import Reporter
from adapterzoo.running.watch import Watch
from adapterzoo.running.worker import Worker, reason

if TYPE_CHECKING:
    from adapterzoo.evaluation.evaluate import Likelihood
    from adapterzoo.model.base import Base


class Schedule:
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
        from adapterzoo.model import base

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
        with base.borrow() as model:
            return self.prepared.general.measure(model)

    def _finish(self, result: Result, kept: bool = False) -> None:
        self.done[result.label, result.seed] = result
        self.reporter.finish(result, kept)


class InThisProcess(Schedule):
    """Cell after cell in this process, each base loaded once."""

    def do(self) -> None:
        """Do the cells one after the other."""
        kept = self.store.threads()
        self.worker.threads = parallel.known_threads(self.recipe.threads, "auto", kept) or processes.cores()
        processes.set_threads(self.worker.threads)
        keep_freed_memory()
        self.store.keep_threads(self.worker.threads)
        for cell in self.todo:
            base = self.bases.get(cell.quantization)
            if base is None:
                self.bases = {name: held for name, held in self.bases.items() if isinstance(held, Exception)}
                gc.collect()
                base = self._load(cell.quantization)
            self.reporter.start(cell.label, cell.seed)
            self._finish(self._one(cell, base))

    def _one(self, cell: Cell, base: Base | Exception) -> Result:
        try:
            if isinstance(base, Exception):
                raise base
            if self.prepared.general is not None and cell.quantization not in self.general:
                with self.clock("general text"):
                    self.general[cell.quantization] = self._measure_general(base)
        except Exception as error:
            return self.worker.fail(cell, reason(error), "", keep_checkpoints=True)
        tuning, general = self.tunings.get(cell.label), self.general.get(cell.quantization)
        return self.worker.do(cell, base, CellWatch(self, cell), tuning=tuning, general=general)


class CellWatch(Watch):
    """Passes on how a cell goes to the run's reporter, and what was chosen for its label to its other seeds."""

    def __init__(self, runner: Schedule, cell: Cell) -> None:
        self._runner, self._cell = runner, (cell.label, cell.seed)

    def phase(self, name: str) -> None:
        """See :meth:`Watch.phase`."""
        self._runner.reporter.phase(*self._cell, name)

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """See :meth:`Watch.step`."""
        self._runner.reporter.step(*self._cell, step, steps, loss, tokens)

    def say(self, message: str) -> None:
        """See :meth:`Watch.say`."""
        self._runner.reporter.say(message)

    def tuned(self, found: Tuning | AdapterzooError) -> None:
        """See :meth:`Watch.tuned`."""
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
        if result.tuning and isinstance(cell, MethodCell):
            cell = chosen(cell, result.tuning["chosen"])
        for name, here in cell.settings.items():
            there = getattr(result, name)
            if there != here:
                what = f"holds '{cell.label}' with other settings ({name}: {there!r} there, {here!r} here)."
                hint = "Give it another label, remove that folder, or give --out another."
                problems.append(Problem(str(store.cell(result.label, result.seed)), what, hint))
                break
    if problems:
        raise UserError(*problems)
    return kept
