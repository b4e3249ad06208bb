"""Runs a recipe: every cell trained and measured, each result written as it ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapterzoo.machine import processes
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.prepared import Prepared, prepare, quiet_libraries
from adapterzoo.recipe.reading import kept_recipe
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.identity import recipe_identity
from adapterzoo.results.result import Result
from adapterzoo.results.store import Store
from adapterzoo.running.process_queue import InProcesses
from adapterzoo.running.progress import Reporter
from adapterzoo.running.schedule import InThisProcess, Schedule
from adapterzoo.running.worker import Worker
from adapterzoo.terminal import duration


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
    reporter, clock, before = reporter or Reporter(), Stopwatch(), list[int]()

    def one_thread() -> None:
        before.append(processes.threads())
        if recipe.jobs != 0 and processes.available():
            processes.set_threads(1)

    try:
        with clock("preparing"):
            prepared = prepare(recipe, methods, seeds, reporter.say, one_thread)
        return _run(prepared, out, reporter, clock, fresh)
    finally:
        if before:
            processes.set_threads(before[0])


def _run(prepared: Prepared, out: Path, reporter: Reporter, clock: Stopwatch, fresh: bool) -> list[Result]:
    """Do the cells of a run; ``fresh`` says that this process can be forked into ones of several threads."""
    store = Store(out)
    resolved = prepared.recipe.resolved()
    identity = recipe_identity(resolved, prepared.encoded.fingerprint, prepared.weights)
    store.check(identity)
    with quiet_libraries():
        worker = Worker(prepared, store, identity)
        runner: Schedule = InThisProcess(worker, reporter, clock)
        if prepared.recipe.jobs != 0 and processes.available():
            runner = InProcesses(worker, reporter, clock, fresh)
        cells = [(cell.label, cell.seed) for cell in prepared.cells]
        store.begin(kept_recipe(prepared.recipe, registry()), identity, cells)
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
