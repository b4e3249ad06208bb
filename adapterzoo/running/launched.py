"""Run a recipe in processes that a launcher such as ``accelerate launch`` has started.

Rank 0 does the run as it would do it alone, one cell after the other. It tells the other ranks which cell is next.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapterzoo.errors import AdapterzooError, AloneError, UserError, failure_reason
from adapterzoo.machine import gpu, launcher, processes, ranks, settling, stopping
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import Cell
from adapterzoo.prepare.prepare import prepare
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.result import Result, Tuning
from adapterzoo.results.store import Store
from adapterzoo.running.follower import follow
from adapterzoo.running.launched_machines import require_same_run, require_shared
from adapterzoo.running.launcher_settings import sharding_wanted
from adapterzoo.running.of_base import OfBase, needs_base
from adapterzoo.running.serial import SerialSchedule
from adapterzoo.running.worker import Worker

Order = tuple[Cell, Tuning | AdapterzooError | None, int]
"""the next cell, its tuning, and the number of threads; a name alone is a quantization to load the base model with"""
Say = Callable[[str], None]


def for_launched(recipe: Recipe) -> Recipe:
    """Return a recipe with the number of processes that were started, each of which does its part of all cells.

    Raises:
        UserError: the recipe names another number, or the launcher's settings ask for what is not there.
    """
    started, wanted = ranks.launched(), recipe.train.devices
    if wanted not in (1, started):
        what = f"is {wanted}, but the launcher has started {started} processes."
        raise UserError.at("train.devices", what, "Leave it out, or start as many.")
    sharding = sharding_wanted(recipe.train)
    train = recipe.train.model_validate({**recipe.train.model_dump(), "devices": started, "sharding": sharding})
    return recipe.model_copy(update={"train": train, "jobs": 0})


def prepare_on_all(
    recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], say: Say, before_torch: Callable[[], None]
) -> Prepared:
    """Prepare the run on every rank.

    Raises:
        UserError: something is wrong on this rank or another one, or ranks have prepared different runs.
    """
    ranks.join()
    prepared, problem = None, None
    try:
        prepared = prepare(recipe, methods, seeds, say, before_torch)
    except UserError as error:
        problem = error
    problems = ranks.gathered(problem)
    found = problem or next(filter(None, problems), None)
    if found is not None:
        raise found
    assert prepared is not None
    require_same_run(prepared)
    return prepared


class LaunchedSchedule(SerialSchedule):
    """The schedule of rank 0, which the other ranks follow."""

    def do(self) -> None:
        """See :meth:`SerialSchedule.do`."""
        require_shared(self.store.folder)
        settling.prepare()
        super().do()
        ranks.agreed(lambda: None)

    def _load(self, quantization: str) -> Any:
        # All load it at the same time, because those that divide it may need the parts of the others.
        ranks.agreed(lambda: quantization)
        return super()._load(quantization)

    def _do_cell(self, cell: Cell, base: Any) -> Result:
        order: Order = (cell, self.tunings.get(cell.label), self.worker.results.threads)
        ranks.agreed(lambda: order)
        result = super()._do_cell(cell, base)
        try:
            settling.settle(result.error or "")
        except AloneError as error:
            what = f"{error}. Rank 0 alone has failed, and the others wait for it, so the run ends here."
            hint = "Start it again: it goes on with the other cells."
            raise UserError.at(f"{cell.label}, seed {cell.seed}", what, hint) from None
        return result


def follow_run(recipe: Recipe, out: Path, methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> None:
    """Do with rank 0 every cell that it does, as another rank; the arguments are those of ``runner.run``.

    Raises:
        UserError: something is wrong with the recipe, the data or the model.
        KeyboardInterrupt: the user has stopped the run.
    """
    recipe = for_launched(recipe)
    prepared = prepare_on_all(recipe, methods, seeds, lambda message: None, lambda: None)
    say = launcher.naming_lost(launcher.say_as_first_living, unless_lost=lambda message: None)
    with quiet_libraries(), gpu.repeatable(), stopping.gently(say):
        try:
            _Follower(prepared, Store(out)).follow()
        except UserError:
            raise
        except (Exception, AloneError) as error:  # another rank has died, or this one failed alone: all are ended
            say("")  # name a lost rank here, because the launcher may not have asked this one to stop yet
            if not settling.says_lost(error):
                launcher.report_failure(f"error: {failure_reason(error)}")
            _print_error()
            os._exit(1)


def _print_error() -> None:
    """Print the present error, unless a rank was lost: it then only says that the lost one does not answer."""
    if not launcher.lost():
        traceback.print_exc()


class _Follower:
    """The work of a rank that follows rank 0."""

    def __init__(self, prepared: Prepared, store: Store) -> None:
        self.prepared, self.store = prepared, store
        self.worker = Worker(prepared, store, {})
        self.base: Any = None
        self.of_base: dict[str, OfBase] = {}

    def follow(self) -> None:
        """Do cells until rank 0 has no other."""
        require_shared(self.worker.store.folder)
        settling.prepare()
        while (order := ranks.agreed(_no_order)) is not None:
            if isinstance(order, str):
                self._load(order)
                continue
            processes.set_threads(order[2])
            failure = ""
            try:
                self._do(order[0], order[1])
            except Exception as error:
                _print_error()
                failure = failure_reason(error)
            settling.settle(failure)

    def _load(self, quantization: str) -> None:
        self.base = None
        try:
            self.base = self.worker.load(quantization)
        except Exception as error:  # rank 0 has the same one, and reports it
            self.base = error

    def _do(self, cell: Cell, tuning: Tuning | AdapterzooError | None) -> None:
        if isinstance(self.base, Exception):
            raise self.base
        if needs_base(self.prepared, cell) and cell.quantization not in self.of_base:
            self.of_base[cell.quantization] = OfBase.measured(self.prepared, self.base, Stopwatch())
        follow(self.prepared, self.store, cell, self.base, tuning, self.of_base.get(cell.quantization))


def _no_order() -> Order | str | None:
    return None
