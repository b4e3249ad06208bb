"""Train and measure the trials of a tuning, by all ranks of a cell together."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo.errors import AdapterzooError
from adapterzoo.machine import ranks, settling
from adapterzoo.machine.memory import free_memory
from adapterzoo.metrics.registry import lower_is_better
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.results.result import Tuning
from adapterzoo.running.cell import Adapted, adapt, train
from adapterzoo.running.tuning import RunTrial, TrialScore, tune
from adapterzoo.running.watch import Watch

if TYPE_CHECKING:
    from adapterzoo.model.base import Base
    from adapterzoo.prepare.prepared import Prepared


def tune_cell(prepared: Prepared, cell: MethodCell, base: Base, folder: Path, watch: Watch) -> Tuning:
    """Try settings from a cell's ranges on the validation rows; return all trials and the best (see :mod:`.tuning`).

    Args:
        prepared: the run.
        cell: the cell with its ranges.
        base: the base model that each trial borrows.
        folder: folder of the cell's label.
        watch: receives the progress of each trial.
    """
    # Always tune with the recipe's first seed, because all seeds get the same settings.
    first = replace(cell, seed=prepared.recipe.seeds[0])
    run_trial = partial(_run_trial, prepared, cell, base, folder / "trial", watch)
    tuning: Tuning | AdapterzooError | None = None
    if ranks.number() == 0:
        tuning = _tuned_by_rank_0(first, folder, lower_is_better(prepared.recipe.evaluate.metrics[0]), run_trial)
    else:
        while (trial := ranks.agreed(_nothing)) is not None:
            with suppress(Exception), settling.failing_together():  # rank 0 has the same error, and writes it
                run_trial(*trial)
    agreed = ranks.agreed(lambda: tuning)
    assert agreed is not None
    if isinstance(agreed, AdapterzooError):
        raise agreed
    return agreed


def _nothing() -> tuple[MethodCell, int] | None:
    return None


def _tuned_by_rank_0(
    first: MethodCell, folder: Path, lower_is_better: bool, run_trial: RunTrial
) -> Tuning | AdapterzooError:
    """Tune, and tell the other ranks which trial is next; return why tuning failed if it did."""

    def run_on_all(trial: MethodCell, number: int) -> TrialScore:
        ranks.agreed(lambda: (trial, number))
        with settling.failing_together():
            return run_trial(trial, number)

    outcome: Tuning | AdapterzooError
    try:
        outcome = tune(first, folder, lower_is_better, run_on_all)
    except AdapterzooError as error:
        outcome = error
    ranks.agreed(_nothing)
    return outcome


def _run_trial(
    prepared: Prepared, cell: MethodCell, base: Base, checkpoints: Path, watch: Watch, trial: MethodCell, number: int
) -> TrialScore:
    """Train and measure the cell of a trial; return its score."""
    values = {"learning_rate": trial.learning_rate, **trial.options}
    settings = ", ".join(f"{name} {values[name]}" for name in cell.ranges)
    watch.phase(f"trial {number + 1}: {settings}")
    _remove_once(checkpoints)
    try:
        with base.borrow() as model:
            adapted = adapt(prepared, trial, model, watch)
            train(prepared, trial, adapted, checkpoints, watch)
            return _validation_score(prepared, adapted)
    finally:
        _remove_once(checkpoints)
        free_memory()


def _remove_once(folder: Path) -> None:
    """Remove a folder, by one rank alone."""
    if ranks.number() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def _validation_score(prepared: Prepared, adapted: Adapted) -> TrialScore:
    """Return a model's score on the validation rows, by the first metric of the recipe."""
    first = prepared.recipe.evaluate.metrics[0]
    settings = prepared.recipe.evaluate.model_copy(update={"metrics": list(dict.fromkeys((first, "loss")))})
    with ranks.spreading():
        measured = prepared.encoded.evaluate(adapted.model, settings, split="validation", prefix=adapted.prefix)
    metrics = measured.metrics
    name = next(iter(metrics))
    return TrialScore(name, metrics[name], metrics["test_loss"])
