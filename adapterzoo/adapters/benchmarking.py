"""Measure trained adapters and their untouched base model with the tasks of lm-eval.

lm-eval asks and scores; the score of each example is kept, so that the rows are compared like those of a run.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.adapters.asking import Answerer
from adapterzoo.adapters.benchmark_scores import benchmark_scores
from adapterzoo.adapters.benchmark_store import BenchmarkStore, seed_of
from adapterzoo.adapters.benchmarks import AS_IN_THE_TRAINING, Asking, Benchmark, load_benchmarks, require_library
from adapterzoo.adapters.finding import Adapter, check_files, find_adapters, folder_on, plain_name
from adapterzoo.adapters.lm_eval_model import lm_eval_model
from adapterzoo.adapters.loading import apply_adapter, load_base, require_causal, saved_tokenizer
from adapterzoo.errors import UserError, failure_reason, is_disk_full
from adapterzoo.machine.memory import PeakMemory, free_memory
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import BASE_LABEL
from adapterzoo.results.result import Result
from adapterzoo.results.store import TRACEBACK
from adapterzoo.results.suitable import check_place
from adapterzoo.running.cell_results import finite
from adapterzoo.running.reporter import Reporter

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


def evaluate_tasks(
    folder: Path,
    tasks: Sequence[str],
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    *,
    asking: Asking = AS_IN_THE_TRAINING,
    base: bool = True,
    include: Path | None = None,
    out: Path | None = None,
    trust_remote_code: bool = False,
    reporter: Reporter | None = None,
) -> tuple[list[Path], list[Result]]:
    """Measure adapters and the untouched base model with tasks of lm-eval.

    Results that the folders for them already have are kept, unless an adapter was trained again since.

    Args:
        folder: output folder of the run that trained the adapters.
        tasks: names of tasks, groups or tags of lm-eval.
        methods: labels or names of methods; if empty, all.
        seeds: seeds of the adapters; if empty, all.
        asking: how lm-eval asks; the recipe's system message is not given by itself.
        base: whether to measure the untouched base model too.
        include: folder with task files of the user's own, whose code is run.
        out: folder for the results, with a folder in it for each task; by default they are beside ``folder``.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.
        reporter: shows the progress.

    Returns:
        The folder of the results of each task, and all results.

    Raises:
        UserError: lm-eval is not installed, there are no such adapters or tasks, or something is wrong with their
            files, the model or a folder; nothing was measured.
        OSError: a disk is full, or a file cannot be written; finished results are kept.
    """
    reporter = reporter or Reporter()
    require_library()
    adapters = find_adapters(folder, methods, seeds, trust_remote_code, reporter.say)
    require_causal(adapters[0])
    for adapter in adapters:
        check_files(adapter, reporter.say)
    tasks = list(dict.fromkeys(tasks))
    folders = [_folder(folder, out, name, asking) for name in tasks]
    for into in folders:
        check_place(into)
    with quiet_libraries():
        asking = replace(asking, chat_template=_uses_chat_template(adapters[0], asking.chat_template))
        reporter.say(f"loading {', '.join(tasks)}")
        benchmarks = load_benchmarks(tasks, include, asking)
        pairs = zip(benchmarks, folders, strict=True)
        places = [BenchmarkStore.of(benchmark, into, adapters[0]) for benchmark, into in pairs]
        return folders, _measure(_answerers(adapters, base=base), places, reporter)


def _answerers(adapters: Sequence[Adapter], *, base: bool) -> list[Answerer]:
    """Return the models that are asked, in an order in which each base model is loaded once."""
    own = adapters[0].recipe.model.quantization
    untouched = [Answerer(BASE_LABEL, own, adapters[0], untouched=True)] if base else []
    models = [Answerer(adapter.result.label, adapter.result.quantization, adapter) for adapter in adapters]
    return sorted([*untouched, *models], key=lambda model: (model.quantization != own, model.quantization))


def _folder(folder: Path, out: Path | None, name: str, asking: Asking) -> Path:
    """Return the folder for results of a task: another one for each set of settings that the user gave."""
    if out is not None:
        return (out / plain_name(name)).absolute()
    return folder_on(folder, name, [f"{key}={value}" for key, value in asdict(asking).items() if value is not None])


def _uses_chat_template(adapter: Adapter, wanted: bool | None) -> bool:
    """Tell whether prompts are written by the chat template: as in the training, unless the user says something else.

    Raises:
        UserError: the user wants it, and the tokenizer has none.
    """
    has_one = bool(saved_tokenizer(adapter).chat_template)
    if wanted and not has_one:
        what = "the tokenizer of these adapters has no chat template."
        raise UserError.at("--apply-chat-template", what, "Give --no-apply-chat-template.")
    data = adapter.recipe.data
    return has_one and data.chat_template != "plain" and data.format != "text" if wanted is None else wanted


def _measure(answerers: Sequence[Answerer], places: Sequence[BenchmarkStore], reporter: Reporter) -> list[Result]:
    """Measure every model with every benchmark for which it has no result; return all results."""
    results = []
    with ExitStack() as locks:
        for place in places:
            place.begin(answerers)
            locks.callback(place.store.release)
        first = places[0].store.folder
        reporter.begin(len(answerers) * len(places), first if len(places) == 1 else first.parent)
        base: Base | None = None
        for answerer in answerers:
            known = [_known(answerer, place, reporter) for place in places]
            results += [result for result in known if result is not None]
            todo = [place for place, result in zip(places, known, strict=True) if result is None]
            if not todo:
                continue
            if base is None or base.quantization != answerer.quantization:
                base = None  # the memory may not be enough for two
                reporter.loading(answerer.quantization)
            base, encoder = load_base(answerer.adapter, answerer.quantization, reporter.say, (), base)
            results += _of_model(answerer, todo, base, encoder.tokenizer, reporter)
    return results


def _known(answerer: Answerer, place: BenchmarkStore, reporter: Reporter) -> Result | None:
    """Return the result that a model already has in a benchmark; None if it has to be measured."""
    if (result := place.finished(answerer)) is not None:
        reporter.start(answerer.label, seed_of(answerer))
        reporter.finish(result, kept=True)
    return result


def _of_model(
    answerer: Answerer, places: Sequence[BenchmarkStore], base: Base, tokenizer: Any, reporter: Reporter
) -> Iterator[Result]:
    """Measure a model with benchmarks, write the results, and yield them; a failure is a result as well."""
    for place in places:
        reporter.start(answerer.label, seed_of(answerer))
        result = place.empty(answerer, base.parameters)
        folder = place.store.clear(result.label, result.seed, {})
        try:
            with _ready(answerer, base, tokenizer, place, reporter) as model:
                result, records = _measured(result, place.benchmark, model)
            result = place.store.write(result, records)
        except Exception as error:  # an adapter or a task may raise anything, which must only fail its own row
            if is_disk_full(error):
                raise
            (folder / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
            result = place.store.write(replace(result, status="failed", error=failure_reason(error)))
        free_memory()
        reporter.finish(result)
        yield result


@contextmanager
def _ready(answerer: Answerer, base: Base, tokenizer: Any, place: BenchmarkStore, reporter: Reporter) -> Iterator[Any]:
    """Yield a model in the form in which lm-eval asks it."""
    adapter, seed, name = answerer.adapter, seed_of(answerer), place.benchmark.name
    reporter.phase(answerer.label, seed, f"measuring {name}")
    with base.borrow() as borrowed:
        model = borrowed.eval() if answerer.untouched else apply_adapter(adapter, borrowed, answerer.quantization)
        yield lm_eval_model(
            model,
            tokenizer,
            adapter.recipe.evaluate.batch_size,
            lambda done, asked: reporter.phase(answerer.label, seed, f"measuring {name}: {done} of {asked} requests"),
        )


def _measured(result: Result, benchmark: Benchmark, model: Any) -> tuple[Result, list[dict[str, Any]]]:
    """Return a result with what a benchmark measures, and a record for each example."""
    clock = Stopwatch()
    with PeakMemory() as peak, clock("measuring"):
        output = benchmark.run(model)
    scores = benchmark_scores(benchmark.name, output)
    measured = replace(
        result,
        metrics=finite(scores.metrics),
        lower_is_better=scores.lower_is_better,
        joint_metrics=scores.joint,
        evaluate_seconds=clock.seconds["measuring"],
        seconds=clock.seconds,
        peak_memory_bytes=peak.bytes,
    )
    return measured, scores.records
