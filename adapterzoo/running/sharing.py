"""Plan a run for workers that share its output folder, and be one of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from adapterzoo.errors import Problem, UserError
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.plan import base_cells
from adapterzoo.prepare.prepare import prepare
from adapterzoo.recipe.reading import kept_recipe, load_recipe, require_trust
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.claim_files import PATIENCE_SECONDS, ClaimFolder, remove_claims
from adapterzoo.results.claims import Claims, SharedClaims
from adapterzoo.results.note import planned
from adapterzoo.results.result import Result
from adapterzoo.results.store import RECIPE, Store
from adapterzoo.running.planned import PlannedCell, planned_cells
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.runner import run_cells, scheduled
from adapterzoo.running.worker import Worker

PLANNED = ("methods", "seeds", "train.learning_rate")
"""keys of a recipe that say what the cells of a plan are, and that two runs with the same output folder may change"""
ENDED = "ended"
"""name by which one of the workers that see all results is chosen to tidy up"""


def plan(
    recipe: Recipe,
    out: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    reporter: Reporter | None = None,
) -> list[PlannedCell]:
    """Write the plan of a run into its output folder, for :func:`work`; return what is left to do.

    Cells that have failed are planned again.

    The arguments and errors are those of :func:`adapterzoo.running.runner.run`.
    """
    prepare_run = partial(prepare, recipe, methods, seeds)
    reporter = reporter or Reporter()
    with scheduled(recipe, out, prepare_run, Worker, reporter, Stopwatch(), Claims()) as (schedule, identity):
        store, cells = schedule.store, [cell.key for cell in schedule.prepared.cells]
        found = planned_cells(schedule)
        store.begin(kept_recipe(schedule.prepared.recipe, registry()), identity, cells)
        try:
            for cell in schedule.todo:
                store.discard(cell.label, cell.seed)
        finally:
            store.release()
    return found


def work(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    jobs: int | None = None,
    waits: bool = True,
    patience: float = PATIENCE_SECONDS,
    trust_remote_code: bool = False,
    reporter: Reporter | None = None,
) -> list[Result]:
    """Do the cells of a planned run that no other worker has claimed, until none is left.

    Args:
        folder: the output folder, with a plan by :func:`plan` or by a run that was stopped.
        overrides: assignments like ``data.source=rows.csv`` that say what is different on this machine.
        jobs: how many cells this worker does at the same time; by default the recipe's number.
        waits: whether to wait for the cells of other workers, and do those of workers that have died.
        patience: seconds without a sign of life after which a worker counts as dead.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.
        reporter: shows the progress.

    Returns:
        The results of all cells that are done, by whichever worker.

    Raises:
        UserError: the folder holds no plan, a run has it for itself, or the data or the model differ from the plan's.
        OSError: a disk is full, or a file cannot be written; finished cells and checkpoints are kept.
    """
    store, cells = Store(folder), planned(folder)
    if not cells:
        raise UserError.at(str(folder), "holds no plan.", "Make one: adapterzoo run RECIPE --out DIR --plan-only.")
    if store.locked():
        raise UserError.at(str(folder), "a run is writing there.", "Wait for it: it does all cells.")
    _refuse_other_cells(overrides)
    recipe = load_recipe(folder / RECIPE, overrides)
    require_trust(recipe, folder / RECIPE, trust_remote_code)
    if jobs is not None:
        recipe = recipe.model_copy(update={"jobs": jobs})
    of_base = {cell.label for cell in base_cells(recipe)}
    trained = [(label, seed) for label, seed in cells if label not in of_base]
    prepare_run = partial(
        prepare, recipe, [*dict.fromkeys(label for label, _ in trained)], [*dict.fromkeys(seed for _, seed in trained)]
    )
    files = ClaimFolder(folder)
    claims = SharedClaims(files, patience, waits)
    results = run_cells(recipe, folder, prepare_run, reporter or Reporter(), claims=claims)
    if len(results) == len(cells) and files.is_first(ENDED):
        threads = [result.environment.get("threads") for result in results]
        store.keep_threads(next((number for number in threads if number), 1))
        remove_claims(folder)
    return results


def _refuse_other_cells(overrides: Sequence[str]) -> None:
    """Raise UserError if a worker is told to do other cells than the plan has."""
    problems = []
    for override in overrides:
        key = override.partition("=")[0].strip()
        if any(key == planned or key.startswith(f"{planned}.") for planned in PLANNED):
            hint = "Make a plan that has it: adapterzoo run RECIPE --plan-only."
            problems.append(Problem(f"--set {override}", f"the plan says {key}, the same for all workers.", hint))
    if problems:
        raise UserError(*problems)
