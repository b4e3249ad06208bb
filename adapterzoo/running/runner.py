"""Run a recipe: train and measure every cell, and write each result as soon as the cell ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from adapterzoo.errors import UserError, is_disk_full
from adapterzoo.machine import gpu, launcher, processes, ranks, stopping
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.model.dtype import AUTO, HALF
from adapterzoo.prepare.prepare import prepare
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.recipe.reading import kept_recipe
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.claims import Claims
from adapterzoo.results.identity import recipe_identity
from adapterzoo.results.result import Result
from adapterzoo.results.store import Store
from adapterzoo.results.suitable import check_place, check_recipe
from adapterzoo.running import room
from adapterzoo.running.fork_queue import ForkQueue
from adapterzoo.running.gpu_queue import GpuQueue
from adapterzoo.running.launched import LaunchedSchedule, for_launched, prepare_on_all
from adapterzoo.running.on_ray.cluster import RayCluster
from adapterzoo.running.on_ray.queue import RayQueue
from adapterzoo.running.planned import PlannedCell, planned_cells
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.schedule import Schedule
from adapterzoo.running.serial import SerialSchedule
from adapterzoo.running.worker import Worker
from adapterzoo.terminal import duration

Say = Callable[[str], None]
PrepareRun = Callable[[Say, Callable[[], None]], Prepared]
MakeSchedule = Callable[[Worker, Reporter, Stopwatch, Claims], Schedule]
WorkerType = Callable[[Prepared, Store, Mapping[str, Any]], Worker]


def run(
    recipe: Recipe,
    out: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    reporter: Reporter | None = None,
    cluster: RayCluster | None = None,
) -> list[Result]:
    """Train and measure every cell that has no result yet; return the results of all cells.

    If a cell fails, its result holds the reason, and the other cells still run.

    Args:
        recipe: the recipe.
        out: absolute path of the output folder; a relative one would break if a method changes the working directory.
        methods: labels or names of methods to run; if empty, all methods of the recipe.
        seeds: seeds to run; if empty, the recipe's.
        reporter: shows the progress.
        cluster: a Ray cluster whose nodes do the cells; by default this machine does.

    Raises:
        UserError: something is wrong with the recipe, the data, the model or the folder; nothing was trained.
        OSError: a disk is full, or a file cannot be written; finished cells and checkpoints are kept.
    """
    prepare_run, reporter = partial(prepare, recipe, methods, seeds), reporter or Reporter()
    if cluster is None and ranks.launched() > 1:
        recipe = for_launched(recipe)
        prepare_run = partial(prepare_on_all, recipe, methods, seeds)
        return run_cells(recipe, out, prepare_run, reporter, make_schedule=LaunchedSchedule)
    if cluster is None:
        return run_cells(recipe, out, prepare_run, reporter)
    if recipe.jobs == 0:
        what = "0 means that this process does all cells, and with --ray other machines do."
        raise UserError.at("jobs", what, "Leave one of them out.")
    cluster = replace(cluster, devices=recipe.train.devices)
    with cluster.connected():
        if cluster.gpus_of_a_cell() and recipe.model.dtype == AUTO:
            # This machine may have no GPU, and a slow processor.
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": HALF})})
            prepare_run = partial(prepare, recipe, methods, seeds)
        return run_cells(recipe, out, prepare_run, reporter, make_schedule=partial(RayQueue, cluster=cluster))


def run_cells(
    recipe: Recipe,
    out: Path,
    prepare_run: PrepareRun,
    reporter: Reporter,
    worker_type: WorkerType = Worker,
    claims: Claims | None = None,
    make_schedule: MakeSchedule | None = None,
) -> list[Result]:
    """Do every cell of a prepared run that has no result yet; return the results of all cells.

    Args:
        recipe: the recipe.
        out: absolute path of the output folder.
        prepare_run: prepares the run. It is given a function for messages, and one that it has to call before torch
            computes anything.
        reporter: shows the progress.
        worker_type: makes the object that does the cells, from the run, its folder and its identity.
        claims: how workers that share a planned folder divide its cells; by default this run has the folder for itself.
        make_schedule: makes the schedule of the cells; by default it is chosen by what this machine has.

    Raises:
        UserError: something is wrong with the recipe, the data, the model or the folder; nothing was done.
        OSError: a disk is full, or a file cannot be written; finished cells and checkpoints are kept.
    """
    clock, claims = Stopwatch(), claims or Claims()
    chosen = scheduled(recipe, out, prepare_run, worker_type, reporter, clock, claims, make_schedule)
    with chosen as (schedule, identity):
        store, cells = schedule.store, [cell.key for cell in schedule.prepared.cells]
        if (too_small := room.warning(schedule.prepared, schedule.todo, out)) is not None:
            reporter.say(too_small)
        if not claims.shared:
            store.begin(kept_recipe(schedule.prepared.recipe, registry()), identity, cells)
        reporter.begin(len(cells), out, shared=claims.shared)
        try:
            with stopping.gently(launcher.naming_lost(reporter.say)):
                results = schedule.run()
            if schedule.todo:
                times = schedule.times()
                if not claims.shared:
                    store.keep_times(times)
                reporter.say(times_line(times))
            return results
        except OSError as error:
            if not is_disk_full(error):
                raise
            todo = [cell for cell in schedule.todo if cell.key not in schedule.done]
            raise room.disk_full(schedule.prepared, todo, out) from error
        finally:
            claims.close()
            reporter.forget()
            store.release()


def dry_run(
    recipe: Recipe,
    out: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    reporter: Reporter | None = None,
) -> list[PlannedCell]:
    """Return what :func:`run` would do with each cell, and why; nothing is trained or written.

    The arguments and errors are those of :func:`run`.
    """
    prepare_run = partial(prepare, recipe, methods, seeds)
    with scheduled(recipe, out, prepare_run, Worker, reporter or Reporter(), Stopwatch(), Claims()) as (schedule, _):
        return planned_cells(schedule)


@contextmanager
def scheduled(
    recipe: Recipe,
    out: Path,
    prepare_run: PrepareRun,
    worker_type: WorkerType,
    reporter: Reporter,
    clock: Stopwatch,
    claims: Claims,
    make_schedule: MakeSchedule | None = None,
) -> Iterator[tuple[Schedule, dict[str, Any]]]:
    """Prepare a run and yield its schedule, and the recipe's identity; then set the number of threads back."""
    # If torch has used several threads in a process, processes forked from it cannot use several threads.
    forks_may_use_threads = "torch" not in sys.modules or processes.threads() == 1
    threads_before = list[int]()

    def use_one_thread() -> None:
        threads_before.append(processes.threads())
        if recipe.jobs != 0 and processes.can_fork():
            processes.set_threads(1)

    store = Store(out)
    check_place(out)
    try:
        with clock("preparing"):
            prepared = prepare_run(reporter.say, use_one_thread)
        identity = recipe_identity(prepared.recipe.resolved(), str(prepared.fingerprints["data"]), prepared.weights)
        if (message := check_recipe(out, identity)) is not None:
            reporter.say(message)
        with quiet_libraries():
            worker = worker_type(prepared, store, identity)
            schedule: Schedule
            if make_schedule is not None:
                schedule = make_schedule(worker, reporter, clock, claims)
            elif prepared.recipe.jobs != 0 and processes.can_fork():
                schedule = ForkQueue(worker, reporter, clock, claims, forks_may_use_threads)
            elif prepared.recipe.jobs != 0 and (gpus := gpu.visible()):
                schedule = GpuQueue(worker, reporter, clock, claims, gpus)
            else:
                require_one_device(worker.devices, prepared.recipe.jobs)
                schedule = SerialSchedule(worker, reporter, clock, claims)
            yield schedule, identity
    finally:
        if threads_before:
            processes.set_threads(threads_before[0])


def require_one_device(devices: int, jobs: Any) -> None:
    """Raise UserError if a cell needs several processes, which a run in this process alone does not start."""
    if devices > 1:
        cause = "jobs: 0 lets this process do all cells" if jobs == 0 else "adapterzoo starts processes only on Linux"
        raise UserError.at("train.devices", f"is {devices}, but {cause}.", "Leave one of them out, or set it to 1.")


def times_line(times: Mapping[str, float]) -> str:
    """Return a line with the total time of a run and the share of each activity, the largest first."""
    activities = sorted(times.items(), key=lambda item: -item[1])
    total = sum(times.values())
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in activities if seconds >= total / 100)
    return f"time of all processes: {duration(total)}: {shares}"
