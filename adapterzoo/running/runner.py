"""Run a recipe: train and measure every cell, and write each result as soon as the cell ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapterzoo.machine import gpu, processes
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.prepare import prepare
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.recipe.reading import kept_recipe
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.identity import recipe_identity
from adapterzoo.results.result import Result
from adapterzoo.results.store import Store
from adapterzoo.running.fork_queue import ForkQueue
from adapterzoo.running.gpu_queue import GpuQueue
from adapterzoo.running.progress import Reporter
from adapterzoo.running.schedule import Schedule, SerialSchedule
from adapterzoo.running.worker import Worker
from adapterzoo.terminal import duration


def run(
    recipe: Recipe,
    out: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    reporter: Reporter | None = None,
) -> list[Result]:
    """Train and measure every cell that has no result yet; return the results of all cells.

    If a cell fails, its result holds the reason, and the other cells still run.

    Args:
        recipe: the recipe.
        out: absolute path of the output folder; a relative one would break if a method changes the working directory.
        methods: labels or names of methods to run; if empty, all methods of the recipe.
        seeds: seeds to run; if empty, the recipe's.
        reporter: shows the progress.

    Raises:
        UserError: something is wrong with the recipe, the data, the model or the folder; nothing was trained.
    """
    # If torch has used several threads in a process, processes forked from it cannot use several threads.
    forks_may_use_threads = "torch" not in sys.modules or processes.threads() == 1
    reporter, clock, threads_before = reporter or Reporter(), Stopwatch(), list[int]()

    def use_one_thread() -> None:
        threads_before.append(processes.threads())
        if recipe.jobs != 0 and processes.can_fork():
            processes.set_threads(1)

    try:
        with clock("preparing"):
            prepared = prepare(recipe, methods, seeds, reporter.say, use_one_thread)
        return _run(prepared, out, reporter, clock, forks_may_use_threads)
    finally:
        if threads_before:
            processes.set_threads(threads_before[0])


def _run(
    prepared: Prepared, out: Path, reporter: Reporter, clock: Stopwatch, forks_may_use_threads: bool
) -> list[Result]:
    """Run the cells of a prepared run; return the results of all cells."""
    store = Store(out)
    resolved = prepared.recipe.resolved()
    identity = recipe_identity(resolved, prepared.encoded.fingerprint, prepared.weights)
    store.check(identity)
    with quiet_libraries():
        worker = Worker(prepared, store, identity)
        schedule: Schedule
        if prepared.recipe.jobs != 0 and processes.can_fork():
            schedule = ForkQueue(worker, reporter, clock, forks_may_use_threads)
        elif prepared.recipe.jobs != 0 and (gpus := gpu.visible()):
            schedule = GpuQueue(worker, reporter, clock, gpus)
        else:
            schedule = SerialSchedule(worker, reporter, clock)
        cells = [(cell.label, cell.seed) for cell in prepared.cells]
        store.begin(kept_recipe(prepared.recipe, registry()), identity, cells)
        reporter.begin(len(cells), out)
        try:
            results = schedule.run()
            if schedule.todo:
                times = schedule.times()
                store.keep_times(times)
                reporter.say(times_line(times))
            return results
        finally:
            store.release()


def times_line(times: Mapping[str, float]) -> str:
    """Return a line with the total time of a run and the share of each activity, the largest first."""
    activities = sorted(times.items(), key=lambda item: -item[1])
    total = sum(times.values())
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in activities if seconds >= total / 100)
    return f"time of all processes: {duration(total)}: {shares}"
