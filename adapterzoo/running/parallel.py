"""Choose how many cells run at the same time, and how many threads each of them gets."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapterzoo.machine.memory import PeakMemory, available
from adapterzoo.machine.processes import Process, Send, cores, wait_for_any
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.recipe.schema import Recipe
from adapterzoo.running.cell import adapt, step_seconds
from adapterzoo.running.watch import Watch

# With fewer training steps in all cells together, a probe costs more time than it saves.
MIN_STEPS_TO_PROBE = 200
# Use this share of the free memory, because other methods may need more than the one that was probed.
SHARE_OF_MEMORY = 0.7


@dataclass(frozen=True)
class Concurrency:
    """The number of cells that run at the same time, and the number of threads of each cell."""

    jobs: int
    threads: int

    def __str__(self) -> str:
        return f"{self.jobs} x {self.threads} thread{'s' if self.threads > 1 else ''}"


def known_threads(wanted: Any, jobs: Any, kept: int | None) -> int | None:
    """Return how many threads each cell gets, or None if a probe has to find it out.

    Args:
        wanted: the recipe's ``threads``.
        jobs: the recipe's ``jobs``.
        kept: number of threads that earlier cells in the output folder had; None if there are none.
    """
    if wanted != "auto":
        return int(wanted)
    if kept is not None:
        return kept
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(given):
        return int(given)
    if jobs != "auto":
        return max(1, cores() // max(1, int(jobs)))
    return 1 if cores() == 1 else None


def on_gpus(recipe: Recipe, gpus: int, cells: int, kept: int | None) -> Concurrency:
    """Return as many jobs as there are GPUs, or as many as the recipe sets, and divide the cores among them.

    Args:
        recipe: the recipe.
        gpus: number of GPUs.
        cells: number of cells that are still to be done.
        kept: number of threads that earlier cells in the output folder had; None if there are none.
    """
    jobs = max(1, min(cells, gpus if recipe.jobs == "auto" else int(recipe.jobs)))
    return Concurrency(jobs, known_threads(recipe.threads, jobs, kept) or 1)


def for_ranks(recipe: Recipe, devices: int, cells: int, kept: int | None) -> Concurrency:
    """Return as many jobs as the cores are enough for, if each cell has several processes; see :func:`on_gpus`."""
    threads = known_threads(recipe.threads, 1, kept) if recipe.threads != "auto" or kept is not None else 1
    wanted = cores() // ((threads or 1) * devices) if recipe.jobs == "auto" else int(recipe.jobs)
    return Concurrency(max(1, min(cells, wanted)), threads or 1)


def probe(
    prepared: Prepared, cells: Sequence[Cell], base: Any, jobs: Any, total: int, say: Callable[[str], None]
) -> Concurrency:
    """Return the number of jobs and threads that train the most cells per hour, measured with a few training steps.

    Args:
        prepared: the run.
        cells: the cells that are still to be done on this base model.
        base: the loaded base model.
        jobs: the recipe's ``jobs``.
        total: number of cells that are still to be done on any base model.
        say: is called with the result of the probe.
    """
    cell = next((cell for cell in cells if isinstance(cell, MethodCell)), None)
    if cell is None or prepared.steps * total < MIN_STEPS_TO_PROBE:
        return for_threads(1, jobs, total)
    tried: list[tuple[float, Concurrency]] = []
    threads, memory, room = cores(), 0, available() * SHARE_OF_MEMORY
    while threads >= 1:
        concurrency = for_threads(threads, jobs, total)
        if jobs == "auto" and memory * concurrency.jobs > room:
            concurrency = Concurrency(max(1, int(room // memory)), threads)
        rate, memory = _trainings_per_hour(prepared, cell, base, concurrency)
        tried.append((rate, concurrency))
        # Fewer threads for each cell would be slower still. After a failure the memory that a cell needs is not known.
        if not rate or rate < max(rate for rate, _ in tried):
            break
        threads //= 2
    if not any(rate for rate, _ in tried):
        say(f"each cell gets one thread, because the probe of '{cell.label}' failed")
        return for_threads(1, jobs, total)
    best = max(tried, key=lambda trial: trial[0])[1]
    rates = ", ".join(f"{concurrency}: {rate:.0f}" for rate, concurrency in tried)
    say(f"{best} at a time (a probe of '{cell.label}', trainings per hour: {rates})")
    return best


def for_threads(threads: int, jobs: Any, cells: int) -> Concurrency:
    """Return as many jobs as are needed to keep every core busy, or as many as the recipe sets.

    Args:
        threads: number of threads of each cell.
        jobs: the recipe's ``jobs``.
        cells: number of cells that are still to be done.
    """
    wanted = cores() // threads if jobs == "auto" else int(jobs)
    return Concurrency(max(1, min(cells, wanted)), threads)


def _trainings_per_hour(prepared: Prepared, cell: MethodCell, base: Any, concurrency: Concurrency) -> tuple[float, int]:
    """Return how many trainings end per hour, and how many bytes each one needs; 0 and 0 if a process failed."""
    started = [
        Process(lambda send: _train_steps(prepared, cell, base, send), concurrency.threads)
        for _ in range(concurrency.jobs)
    ]
    running, begun = list(started), time.monotonic()
    limit = prepared.recipe.train.time_limit or math.inf
    try:
        while running and time.monotonic() - begun < limit:
            wait_for_any(running)
            running = [process for process in running if process.alive]
    finally:
        for process in running:
            process.kill()
    answers = [answer for process in started for answer in process.messages()]
    if len(answers) < len(started):
        return 0.0, 0
    seconds = max(seconds for seconds, _ in answers) * prepared.steps
    return 3600 / seconds * concurrency.jobs, max(memory for _, memory in answers)


def _train_steps(prepared: Prepared, cell: MethodCell, base: Any, send: Send) -> None:
    """Train some steps; send the seconds that one step takes, and the bytes that training adds to the process."""
    import psutil

    prepared = replace(prepared, encoded=prepared.encoded.with_base(None))
    before = psutil.Process().memory_info().rss
    with base.borrow() as model, PeakMemory() as peak:
        seconds = step_seconds(prepared, cell, adapt(prepared, cell, model, Watch()))
    send((seconds, max(peak.bytes - before, 1)))
