"""Predict the time and memory of a run: time two training steps of each method and a part of its measuring.

The cells are timed in parallel, as they will run; on GPUs one after the other. Two things cannot be known before
training: how long a trained model's answers are, and which rows will be in a batch. It is assumed that the answers are
as long as the base model's, and that a step has the mean number of tokens.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import failure_reason
from adapterzoo.evaluation.forgetting import General
from adapterzoo.machine import gpu
from adapterzoo.machine.memory import PeakMemory
from adapterzoo.machine.processes import cores, in_processes
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.running import parallel
from adapterzoo.running.cell import adapt, shared_prefix, step_seconds
from adapterzoo.running.measuring import measure
from adapterzoo.running.parallel import Concurrency
from adapterzoo.running.watch import Watch
from adapterzoo.tasks.examples import sizes

if TYPE_CHECKING:
    from adapterzoo.model.base import Base

MEASURED_BATCHES = 2  # number of batches of test rows that are measured
GENERAL_STRIDE = 8  # every eighth paragraph of the general text is measured


@dataclass(frozen=True)
class Expected:
    """The time and memory that one cell is expected to need."""

    seconds: float
    peak_bytes: int
    """highest memory use of the cell's process; on a GPU, of the GPU's memory"""
    own_bytes: int
    """part of ``peak_bytes`` that is not shared with the process that holds the base model"""


@dataclass(frozen=True)
class Forecast:
    """The time and memory that a run is expected to need."""

    cells: dict[str, Expected | str]
    """label -> what the cell needs, or why it failed"""
    concurrency: Concurrency
    seconds: float
    """time of the whole run, without the cells that failed"""
    peak_bytes: int
    """highest memory use of all processes together"""


def forecast(prepared: Prepared, preparing: float, say: Callable[[str], None]) -> Forecast:
    """Return the time and memory that a run is expected to need.

    Where processes can be forked, torch must have used only one thread in this process so far.

    Args:
        prepared: the run.
        preparing: seconds that preparing the run took.
        say: is called with the number of cells that will run at a time.

    Raises:
        UserError: a base model cannot be loaded.
    """
    from adapterzoo.model import base

    clock, expected, items = Stopwatch(), dict[str, Expected | str](), list[float]()
    concurrency: Concurrency | None = None
    prepared = replace(prepared, encoded=prepared.encoded.with_base(None))
    shared = 0  # bytes of this process while it holds the largest base model
    model, location, length = prepared.recipe.model, prepared.location, prepared.recipe.data.max_length
    for quantization in dict.fromkeys(cell.quantization for cell in prepared.cells):
        cells = list({cell.label: cell for cell in prepared.cells if cell.quantization == quantization}.values())
        with quiet_libraries():
            with clock("loading"):
                loaded = base.load(model, location, quantization, length, prepared.encoded.form)
            if concurrency is None:
                with clock("probing"):
                    concurrency = _choose_concurrency(prepared, cells, loaded, say)
            if prepared.general is not None:
                items += _base_general_seconds(prepared.general, loaded, concurrency.threads)
            expected |= _expect_each(prepared, cells, loaded, concurrency)
        shared = max(shared, _shared_bytes())
        del loaded
    assert concurrency is not None  # a run has at least one cell
    items += _cell_seconds(prepared.cells, expected)
    seconds = preparing + sum(clock.seconds.values()) + makespan(items, concurrency.jobs)
    largest = sorted((cell.own_bytes for cell in expected.values() if isinstance(cell, Expected)), reverse=True)
    return Forecast(expected, concurrency, seconds, shared + sum(largest[: concurrency.jobs]))


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """Return how long pieces of work take if each starts, in the given order, as soon as one of the jobs is free."""
    free_at = [0.0] * jobs
    for item_seconds in seconds:
        heapq.heapreplace(free_at, free_at[0] + item_seconds)
    return max(free_at)


def _choose_concurrency(
    prepared: Prepared, cells: Sequence[Cell], loaded: Base, say: Callable[[str], None]
) -> Concurrency:
    """Return how many cells will run at a time and with how many threads, chosen as a run chooses it."""
    recipe = prepared.recipe
    if recipe.jobs != 0 and (gpus := gpu.visible()):
        return parallel.on_gpus(recipe, 1 if recipe.model.device_map else len(gpus), len(prepared.cells), None)
    jobs = recipe.jobs if recipe.jobs else 1
    threads = parallel.known_threads(recipe.threads, recipe.jobs or "auto", None)
    if threads is None and recipe.jobs:
        return parallel.probe(prepared, cells, loaded, jobs, len(prepared.cells), say)
    return parallel.for_threads(threads or cores(), jobs, len(prepared.cells))


def _cell_seconds(cells: Sequence[Cell], expected: Mapping[str, Expected | str]) -> Iterator[float]:
    """Yield the seconds of each cell that did not fail; a label's first cell also runs the trials of tuning."""
    tuned = set[str]()
    for cell in cells:
        needs = expected[cell.label]
        if isinstance(needs, str):
            continue
        trials = cell.trials if isinstance(cell, MethodCell) and cell.label not in tuned else 0
        tuned.add(cell.label)
        yield needs.seconds * (1 + trials)


def _shared_bytes() -> int:
    """Return the memory of this process that its cells share; on a GPU none, because each has its own base model."""
    import psutil

    return 0 if gpu.visible() else int(psutil.Process().memory_info().rss)


def _expect_each(
    prepared: Prepared, cells: Sequence[Cell], loaded: Base, concurrency: Concurrency
) -> dict[str, Expected | str]:
    """Return what each cell of a base model will need, or why it failed, by label."""
    estimates = [partial(_expect, prepared, cell, loaded) for cell in cells]
    with gpu.repeatable():
        answers = in_processes(estimates, concurrency.jobs, concurrency.threads, prepared.recipe.train.time_limit)
    pairs = zip(cells, answers, strict=True)
    return {cell.label: failure_reason(answer) if isinstance(answer, Exception) else answer for cell, answer in pairs}


def _expect(prepared: Prepared, cell: Cell, loaded: Base) -> Expected:
    """Return what a cell will need, estimated from two training steps and a part of its measuring."""
    before, clock = _shared_bytes(), Stopwatch()
    with loaded.borrow() as model, PeakMemory() as peak:
        if isinstance(cell, MethodCell):
            with clock("wrapping"):
                adapted = adapt(prepared, cell, model, Watch())
            clock.add("training", step_seconds(prepared, cell, adapted) * prepared.steps)
            model, prefix = adapted.model, adapted.prefix
        else:
            prefix = shared_prefix(prepared, cell, model, Watch())
        sample = _sample_test_rows(prepared)
        begun = time.perf_counter()
        answer_seconds = measure(sample, cell, model, prefix, Watch()).answer_seconds or 0.0
        seconds = time.perf_counter() - begun
        # Do not scale the time of the first batch: a run of any size has one batch whose answers are generated whole.
        # Other answers may begin with tokens that are known from measuring the reference (see answers.py).
        first_batch = answer_seconds * min(prepared.recipe.evaluate.batch_size, len(sample.encoded.test))
        scale = len(prepared.encoded.test) / len(sample.encoded.test)
        clock.add("measuring", first_batch + (seconds - first_batch) * scale)
        if isinstance(cell, MethodCell) and prepared.general is not None:
            clock.add("general text", _general_seconds(prepared.general, model))
    return Expected(sum(clock.seconds.values()), peak.bytes, max(peak.bytes - before, 0))


def _sample_test_rows(prepared: Prepared) -> Prepared:
    """Return the run with only MEASURED_BATCHES batches of its test rows, short and long ones."""
    encoded = prepared.encoded
    known = sizes(encoded.test)
    order = sorted(range(len(known)), key=lambda i: known[i])
    wanted = MEASURED_BATCHES * prepared.recipe.evaluate.batch_size
    chosen = [order[at * len(order) // wanted] for at in range(wanted)] if wanted < len(order) else order
    return replace(prepared, encoded=encoded.with_test(chosen))


def _base_general_seconds(general: General, loaded: Base, threads: int) -> list[float]:
    """Return the seconds that measuring the general text takes with the untouched base model; empty if it fails."""

    def measure() -> float:
        with loaded.borrow() as model:
            return _general_seconds(general, model)

    return [seconds for seconds in in_processes([measure], 1, threads) if isinstance(seconds, float)]


def _general_seconds(general: General, model: Any) -> float:
    """Return the seconds that measuring the general text takes, estimated from a share of its paragraphs."""
    rows = sorted(general.rows, key=lambda row: len(row[0]))[::GENERAL_STRIDE]
    begun = time.perf_counter()
    General(rows, general.pad_id, general.batch_size).measure(model)
    seconds = time.perf_counter() - begun
    return seconds * sum(len(ids) for ids, _ in general.rows) / sum(len(ids) for ids, _ in rows)
