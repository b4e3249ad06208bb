"""Run the cells of a run and keep what they share."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from adapterzoo.errors import AdapterzooError, Problem, UserError
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.settings import with_settings
from adapterzoo.results.claim_files import CellKey
from adapterzoo.results.claims import Claims
from adapterzoo.results.intact import changed_files, changed_records
from adapterzoo.results.reading import read_result
from adapterzoo.results.result import RESULT, Result, Tuning
from adapterzoo.results.store import ADAPTER, Store
from adapterzoo.running.of_base import OfBase
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.watch import Watch
from adapterzoo.running.worker import Worker

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


CARD = f"{ADAPTER}/README.md"
"""the model card that PEFT writes: who edits it does not want another adapter"""


class Schedule:
    """One run of a recipe into one folder, with what its cells share; subclasses decide the order of the cells."""

    def __init__(self, worker: Worker, reporter: Reporter, clock: Stopwatch, claims: Claims) -> None:
        self.worker = worker
        self.claims = claims
        self.clock = clock
        self.jobs = 1
        self.prepared = worker.prepared
        self.recipe = worker.prepared.recipe  # with the data format that was recognised
        self.store = worker.store
        self.reporter = reporter
        self.kept = self._valid(self._finished())
        """label and seed -> result of an earlier run"""
        self.todo = [cell for cell in self.prepared.cells if cell.key not in self.kept]
        self.done: dict[tuple[str, int], Result] = {}
        """label and seed -> result"""
        self.elsewhere = set[CellKey]()
        """label and seed of the cells that other workers have done meanwhile"""
        self._noted = 0
        """the look into the folder of claims after which the cells of other workers were noted"""
        self.load_attempted = False
        """whether loading a base model was tried before"""
        self.bases: dict[str, Base | Exception] = {}
        """quantization -> loaded base model, or why it cannot be loaded"""
        self.of_base: dict[str, OfBase] = {}
        """quantization -> what cells need to know of the untouched base model"""
        self.tunings: dict[str, Tuning | AdapterzooError] = {
            label: result.tuning for (label, _), result in self.kept.items() if result.tuning
        }
        """label -> the tuning of all its seeds, or why it failed"""

    def run(self) -> list[Result]:
        """Run the cells that have no result yet; return the results, in the order of the plan."""
        for cell in self.prepared.cells:
            if (result := self.kept.get(cell.key)) is not None:
                self.reporter.start(cell.label, cell.seed)
                if result.ok:  # a cell that failed goes on from them when it is planned again
                    self.store.remove_checkpoints(cell.label, cell.seed)  # if a run was killed before it did
                self._finish(result, kept=True)
        if self.todo:
            with self.clock("cells"):
                self.do()
        keys = [cell.key for cell in self.prepared.cells]
        return [self.done[key] for key in keys if key in self.done]  # some are missing if the user has stopped the run

    def do(self) -> None:
        """Run the cells in ``todo``."""
        raise NotImplementedError

    def times(self) -> dict[str, float]:
        """Return the seconds that all processes together spent on each activity, including waiting."""
        times = dict(self.clock.seconds)
        available = times.pop("cells") * self.jobs
        for key in {cell.key for cell in self.todo} & self.done.keys() - self.elsewhere:
            for name, seconds in self.done[key].seconds.items():
                times[name] = times.get(name, 0.0) + seconds
        busy = sum(seconds for name, seconds in times.items() if name != "preparing")
        # One process prepares while the others wait.
        times["waiting"] = max(0.0, available - busy) + times["preparing"] * (self.jobs - 1)
        return {name: round(seconds, 2) for name, seconds in times.items()}

    def _finished(self) -> dict[tuple[str, int], Result]:
        """Return the results of earlier runs into this folder, without damaged ones and those of cells that failed.

        Raises:
            UserError: a label has results that were made with other settings, or by a newer adapterzoo.
        """
        kept, problems = {}, []
        # Check all seeds of a label, also those that this run does not need, because they are in the same row.
        for label, cell in {cell.label: cell for cell in self.prepared.cells}.items():
            stored = self.store.results_of(label)
            for folder, problem in stored.damaged.items():
                self._say_repeated(label, folder.name.removeprefix("seed-"), f"{RESULT} {problem.what.rstrip('.')}")
            for _, result in stored.cells:
                if result.ok or self.claims.shared:  # a worker leaves failed cells to the next plan
                    kept[label, result.seed] = result
                    problems += _other_settings(cell, result, self.store)
        if problems:
            raise UserError(*problems)
        return kept

    def _valid(self, finished: dict[tuple[str, int], Result]) -> dict[tuple[str, int], Result]:
        """Return the results that still count; the other cells are trained or measured again."""
        kept = {}
        for (label, seed), result in finished.items():
            folder = self.store.cell(label, seed)
            # One of many workers does not read all adapters: the plan did, and the next plan and the comparison will.
            changed = [] if self.claims.shared else [*changed_files(folder, result), *changed_records(folder, result)]
            changed = [name for name in changed if name != CARD]
            if changed:
                self._say_repeated(label, seed, f"{changed[0]} is not what the run wrote")
            elif (why := self.worker.outdated(result)) is not None:
                self._say_repeated(label, seed, why)
            else:
                kept[label, seed] = result
        return kept

    def _say_repeated(self, label: str, seed: int | str, what: str) -> None:
        """Say why the result of a cell does not count, and what the run does with the cell."""
        cell = next((cell for cell in self.prepared.cells if (cell.label, str(cell.seed)) == (label, str(seed))), None)
        done = "trained" if isinstance(cell, MethodCell) else "measured"
        self.reporter.say(f"{label}, seed {seed}: {what}" + (f", so the cell is {done} again" if cell else ""))

    def _load(self, quantization: str) -> Base | Exception:
        """Load the base model with a quantization; return it, or the exception that its cells will report.

        Raises:
            Exception: it cannot be loaded, and it is the first base model of the run.
        """
        self.reporter.loading(quantization)
        first, self.load_attempted = not self.load_attempted, True
        try:
            with self.clock("loading"):
                self.bases[quantization] = self.worker.load(quantization)
        except Exception as error:
            if first:
                raise
            self.bases[quantization] = error
        return self.bases[quantization]

    def _take(self, cell: Cell) -> bool:
        """Tell whether a cell is this process's to do; claim it if workers share the folder."""
        if not self.claims.shared:
            return True
        if isinstance(cell, MethodCell) and cell.ranges and cell.label not in self.tunings:
            # The first cell of a label tunes for all its seeds, so its other cells wait for the result.
            tuning = {label for label, _ in self.claims.others() - self.done.keys()}
            if cell.label in tuning:
                return False
        if not self.claims.take(cell.key):
            return False
        if self.store.locked():
            what = "a run has begun there."
            raise UserError.at(str(self.store.folder), what, "Wait for it: it does all cells.")
        return not self._note(cell)  # its last owner may have died just after it was done

    def _note_others(self) -> None:
        """Note the cells that other workers have done."""
        if not self.claims.shared or self.claims.looks == self._noted:
            return
        self._noted, claimed = self.claims.looks, self.claims.others()
        for cell in self.todo:
            if cell.key not in self.done and (self.claims.gone or cell.key in claimed):
                self._note(cell)

    def _note(self, cell: Cell) -> bool:
        """Finish a cell that another worker has done; return whether one has."""
        result = self._written(cell)
        if result is not None:
            key = cell.key
            self.elsewhere.add(key)
            if result.tuning:
                self.tunings.setdefault(cell.label, result.tuning)
            self.reporter.start(*key)
            self._finish(result, kept=True)
        return result is not None

    def _written(self, cell: Cell) -> Result | None:
        """Return the result in a cell's folder; None if there is none that can be read."""
        with suppress(UserError):
            return read_result(self.store.cell(cell.label, cell.seed) / RESULT)
        return None

    def _finish(self, result: Result, kept: bool = False) -> None:
        key = (result.label, result.seed)
        self.done[key] = result
        self.claims.finish(key)
        self.reporter.finish(result, kept)


class CellWatch(Watch):
    """A watch that passes a cell's progress on to the run's reporter, and its tuning to the label's other seeds."""

    def __init__(self, schedule: Schedule, cell: Cell) -> None:
        self._schedule, self._cell = schedule, cell.key

    def phase(self, name: str) -> None:
        """See :meth:`Watch.phase`."""
        self._schedule.reporter.phase(*self._cell, name)

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """See :meth:`Watch.step`."""
        self._schedule.reporter.step(*self._cell, step, steps, loss, tokens)

    def say(self, message: str) -> None:
        """See :meth:`Watch.say`."""
        self._schedule.reporter.say(message)

    def tuned(self, tuning: Tuning | AdapterzooError) -> None:
        """See :meth:`Watch.tuned`."""
        self._schedule.tunings[self._cell[0]] = tuning

    def disk_full(self, what: str) -> None:
        """See :meth:`Watch.disk_full`."""
        raise OSError(errno.ENOSPC, what)


def _other_settings(cell: Cell, result: Result, store: Store) -> list[Problem]:
    """Return, as a problem, the first setting in which a result differs from its cell; none if all agree."""
    if result.tuning and isinstance(cell, MethodCell):
        cell = with_settings(cell, result.tuning["chosen"])
    for name, value in cell.settings.items():
        kept_value = getattr(result, name)
        if name == "options" and isinstance(cell, MethodCell):
            # An option that an older version did not have counts as its default.
            kept_value = registry()[cell.method].options.defaults() | kept_value
        if kept_value != value:
            what = f"holds '{cell.label}' with other settings ({name}: {kept_value!r} there, {value!r} here)."
            hint = "Give it another label, remove that folder, or give --out another folder."
            return [Problem(str(store.cell(result.label, result.seed)), what, hint)]
    return []
