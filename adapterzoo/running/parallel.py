"""Choose how many cells run at the same time, and how many threads each of them gets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo.machine.memory import PeakMemory, available
from adapterzoo.machine.processes import Process, Send, cores, wait_for_any
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.running.cell import adapt, step_seconds
from adapterzoo.running.watch import Watch

# Below as many training steps in all, a probe costs more than it saves.
MIN_STEPS_TO_PROBE = 200
# Leave the rest of the free memory unused, because other methods may need more than the one that was probed.
SHARE_OF_MEMORY = 0.7


@dataclass(frozen=True)
class Parallel:
    """So many cells at a time, each with so many threads."""

    jobs: int
    threads: int

    def __str__(self) -> str:
        return f"{self.jobs} x {self.threads} thread{'s' if self.threads > 1 else ''}"


def known_threads(wanted: Any, jobs: Any, kept: int | None) -> int | None:
    """Return how many threads a cell gets where that can be said without a probe, else None.

    Args:
        wanted: the recipe's ``threads``.
        jobs: the recipe's ``jobs``.
        kept: what the cells had that are there already.
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


def probe(
    prepared: Prepared, cells: Sequence[Cell], base: Any, jobs: Any, total: int, say: Callable[[str], None]
) -> Parallel:
    """Return the number of jobs and threads that finish the most cells an hour, timed on two steps of the first method.

    Args:
        cells: that are to be done on the base.
        base: a model that was loaded.
        jobs: the recipe's.
        total: how many cells are to be done on any base.
        say: is told what came of it.
    """
    cell = next((cell for cell in cells if isinstance(cell, MethodCell)), None)
    if cell is None or prepared.steps * total < MIN_STEPS_TO_PROBE:
        return for_threads(1, jobs, total)
    tried: list[tuple[float, Parallel]] = []
    threads, memory, room = cores(), 0, available() * SHARE_OF_MEMORY
    while threads >= 1:
        way = for_threads(threads, jobs, total)
        if jobs == "auto" and memory * way.jobs > room:
            way = Parallel(max(1, int(room // memory)), threads)
        rate, memory = _try(prepared, cell, base, way)
        tried.append((rate, way))
        if rate < max(rate for rate, _ in tried):  # more, smaller shares only get slower from here on
            break
        threads //= 2
    if not any(rate for rate, _ in tried):
        say(f"one thread each: no probe of '{cell.label}' came to its end")
        return for_threads(1, jobs, total)
    best = max(tried, key=lambda one: one[0])[1]
    found = ", ".join(f"{way}: {rate:.0f}" for rate, way in tried)
    say(f"{best} at a time (a probe of '{cell.label}', trainings an hour: {found})")
    return best


def for_threads(threads: int, jobs: Any, cells: int) -> Parallel:
    """Return as many jobs as keep every core busy, or the recipe's number of them.

    Args:
        threads: of each cell.
        jobs: the recipe's.
        cells: that are to be done.
    """
    wanted = cores() // threads if jobs == "auto" else int(jobs)
    return Parallel(max(1, min(cells, wanted)), threads)


def _try(prepared: Prepared, cell: MethodCell, base: Any, way: Parallel) -> tuple[float, int]:
    """Return how many trainings of a cell end in an hour, 0 where none does; and the bytes that each has of its own."""
    begun = [Process(lambda send: _steps(prepared, cell, base, send), way.threads) for _ in range(way.jobs)]
    running = list(begun)
    while running:
        wait_for_any(running)
        running = [process for process in running if process.alive]
    answers = [answer for process in begun for answer in process.messages()]
    if len(answers) < len(begun):
        return 0.0, 0
    seconds = max(seconds for seconds, _ in answers) * prepared.steps
    return 3600 / seconds * way.jobs, max(memory for _, memory in answers)


def _steps(prepared: Prepared, cell: MethodCell, base: Any, send: Send) -> None:
    """Train some steps; send how many seconds one takes, and the bytes that were added to its parent's."""
    import psutil

    before = psutil.Process().memory_info().rss
    with base.borrow() as model, PeakMemory() as peak:
        seconds = step_seconds(prepared, cell, adapt(prepared, cell, model, Watch()))
    send((seconds, max(peak.bytes - before, 1)))
