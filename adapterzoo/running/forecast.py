"""What a run will take: two steps of each method and a part of its measuring are timed, side by side as they will run.

Two things are not known beforehand: how long a trained model's answers are, and which rows will be in a batch. An
untrained adapter answers as the base does, and a step is taken to be as long as its mean number of tokens makes it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterzoo.evaluation.forgetting import General
from adapterzoo.machine.memory import PeakMemory
from adapterzoo.machine.processes import apart, cores
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared, quiet_libraries
from adapterzoo.running import parallel
from adapterzoo.running.cell import adapt, measure, shared_prefix, step_seconds
from adapterzoo.running.parallel import Parallel
from adapterzoo.running.watch import Watch
from adapterzoo.running.worker import reason

if TYPE_CHECKING:
    from adapterzoo.model.base import Base

MEASURED_BATCHES = 2  # of test rows
GENERAL_SHARE = 8  # every eighth paragraph of the general text is measured


@dataclass(frozen=True)
class Expected:
    """What one cell will take."""

    seconds: float
    peak_bytes: int
    """that its process will have in memory; on a GPU, of the GPU's"""
    own_bytes: int
    """of these, what it does not share with the process that holds the base"""


@dataclass(frozen=True)
class Forecast:
    """What a run will take."""

    cells: dict[str, Expected | str]
    """by label; in place of a cell that failed, why"""
    how: Parallel
    seconds: float
    """of the whole run, cells that failed left out"""
    peak_bytes: int
    """of all processes together, at most"""


def forecast(prepared: Prepared, preparing: float, say: Callable[[str], None]) -> Forecast:
    """Return what a run will take.

    Args:
        prepared: the run; where processes can be forked, in a process whose torch has computed with one thread only.
        preparing: the seconds that preparing it took.
        say: is told how many cells will run at a time.

    Raises:
        UserError: a base cannot be loaded.
    """
    import psutil

    from adapterzoo.model import base

    clock, found, tasks = Stopwatch(), dict[str, Expected | str](), list[float]()
    how: Parallel | None = None
    model, location, length = prepared.recipe.model, prepared.location, prepared.recipe.data.max_length
    for quantization in dict.fromkeys(cell.quantization for cell in prepared.cells):
        cells = list({cell.label: cell for cell in prepared.cells if cell.quantization == quantization}.values())
        with quiet_libraries():
            with clock("loading"):
                loaded = base.load(model, location, quantization, length, prepared.vocabulary)
            if how is None:
                with clock("probing"):
                    how = _how(prepared, cells, loaded, say)
            if prepared.general is not None:
                (seconds,) = apart([partial(_general_of_base, prepared.general, loaded)], 1, how.threads)
                tasks.append(seconds if isinstance(seconds, float) else 0.0)
            works = [partial(_expect, prepared, cell, loaded) for cell in cells]
            answers = apart(works, how.jobs, how.threads)
        for cell, answer in zip(cells, answers, strict=True):
            found[cell.label] = reason(answer) if isinstance(answer, Exception) else answer
        shared = psutil.Process().memory_info().rss
        del loaded
    assert how is not None  # there are cells
    tasks += _cell_seconds(prepared.cells, found)
    whole = preparing + sum(clock.seconds.values()) + makespan(tasks, how.jobs)
    largest = sorted((one.own_bytes for one in found.values() if isinstance(one, Expected)), reverse=True)
    return Forecast(found, how, whole, shared + sum(largest[: how.jobs]))


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """Return how long tasks take, each begun in its turn as soon as one of the jobs is free."""
    free = [0.0] * jobs
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def _how(prepared: Prepared, cells: Sequence[Cell], loaded: Base, say: Callable[[str], None]) -> Parallel:
    """Return how many cells will run at a time, and with how many threads, as a run chooses it."""
    recipe = prepared.recipe
    jobs = recipe.jobs if recipe.jobs else 1
    threads = parallel.known_threads(recipe.threads, recipe.jobs or "auto", None)
    if threads is None and recipe.jobs:
        return parallel.probe(prepared, cells, loaded, jobs, len(prepared.cells), say)
    return parallel.for_threads(threads or cores(), jobs, len(prepared.cells))


def _cell_seconds(cells: Sequence[Cell], found: Mapping[str, Expected | str]) -> Iterator[float]:
    """Yield the seconds of each cell; the first one of a label that is tuned has all its trials."""
    tuned = set[str]()
    for cell in cells:
        expected = found[cell.label]
        if isinstance(expected, str):
            continue
        trials = cell.trials if isinstance(cell, MethodCell) and cell.label not in tuned else 0
        tuned.add(cell.label)
        yield expected.seconds * (1 + trials)


def _expect(prepared: Prepared, cell: Cell, loaded: Base) -> Expected:
    """Return what a cell will take, by two steps and a part of its measuring."""
    import psutil

    before, clock = psutil.Process().memory_info().rss, Stopwatch()
    with loaded.borrow() as model, PeakMemory() as peak:
        if isinstance(cell, MethodCell):
            with clock("wrapping"):
                adapted = adapt(prepared, cell, model, Watch())
            clock.add("training", step_seconds(prepared, cell, adapted) * prepared.steps)
            model, prefix = adapted.model, adapted.prefix
        else:
            prefix = shared_prefix(prepared, cell, model, Watch())
        some = _some_test_rows(prepared)
        begun = time.perf_counter()
        answer_seconds = measure(some, cell, model, prefix).answer_seconds or 0.0
        seconds = time.perf_counter() - begun
        # The answers of the first batch are always generated whole, however many rows there are.
        whole = answer_seconds * min(prepared.recipe.evaluate.batch_size, len(some.encoded.test))
        share = len(prepared.encoded.test) / len(some.encoded.test)
        clock.add("measuring", whole + (seconds - whole) * share)
        if isinstance(cell, MethodCell) and prepared.general is not None:
            clock.add("general text", _general_seconds(prepared.general, model))
    return Expected(sum(clock.seconds.values()), peak.bytes, max(peak.bytes - before, 0))


def _some_test_rows(prepared: Prepared) -> Prepared:
    """Return a run whose test rows are some of them, of all lengths."""
    encoded = prepared.encoded
    order = sorted(range(len(encoded.test)), key=lambda i: len(encoded.test[i].learned))
    wanted = MEASURED_BATCHES * prepared.recipe.evaluate.batch_size
    chosen = [order[at * len(order) // wanted] for at in range(wanted)] if wanted < len(order) else order
    shots = [prepared.shots[i] for i in chosen] if prepared.shots else []
    return replace(prepared, encoded=replace(encoded, test=[encoded.test[i] for i in chosen]), shots=shots)


def _general_of_base(general: General, loaded: Base) -> float:
    """Return the seconds that the general text takes with the untouched base."""
    with loaded.borrow() as model:
        return _general_seconds(general, model)


def _general_seconds(general: General, model: Any) -> float:
    """Return the seconds that the general text takes, by some of its paragraphs, of all lengths."""
    rows = sorted(general.rows, key=lambda row: len(row[0]))[::GENERAL_SHARE]
    begun = time.perf_counter()
    General(rows, general.pad_id, general.batch_size).measure(model)
    seconds = time.perf_counter() - begun
    return seconds * sum(len(ids) for ids, _ in general.rows) / sum(len(ids) for ids, _ in rows)
