"""Runs a recipe: prepares data and models once, trains and measures each cell, writes each result as it ends."""

from __future__ import annotations

import gc
import hashlib
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from adapterzoo import results
from adapterzoo.errors import AdapterzooError, Problem, UserError
from adapterzoo.method import Context, linear_layers
from adapterzoo.plan import Cell, plan, select
from adapterzoo.progress import Reporter, SilentReporter
from adapterzoo.recipe import Recipe
from adapterzoo.registry import Registry, registry
from adapterzoo.results import ADAPTER, Result, Store

BASE_LABEL = "base"
# A seed of its own, so that the examples shown to the base do not depend on the recipe's seeds.
SHOTS_SEED = 0


@dataclass(frozen=True)
class Prepared:
    """What is made once, before any weight is loaded, and shared by all cells."""

    recipe: Recipe
    cells: list[Cell]
    location: str
    encoded: Any
    shots: list[list[int]] | None
    """the test prompts with examples in front, where the recipe wants them"""
    steps: int
    trainable: dict[str, int]
    """label -> trainable parameters"""
    base_parameters: int
    linear_parameters: int
    """those of them that quantization reaches"""
    data_hash: str

    def context(self, cell: Cell) -> Context:
        """What a cell's method may know."""
        return Context(cell.base, self.steps, self.recipe.train.gradient_accumulation, cell.seed)


def prepare(
    recipe: Recipe, methods: Sequence[str] = (), seeds: Sequence[int] = (), reporter: Reporter | None = None
) -> Prepared:
    """Everything that can be known and checked without the model's weights.

    Raises:
        UserError: all that is wrong with the methods, the data or the model.
    """
    say = (reporter or SilentReporter()).say
    zoo = registry()
    cells = plan(recipe, select(recipe, methods, zoo), list(seeds) or recipe.seeds, zoo)
    _check_cells(cells, zoo)
    from adapterzoo import data  # light so far: a missing column is said before transformers is imported

    data.check_columns(recipe.data)
    with _quiet_libraries():
        from adapterzoo import base, encode
        from adapterzoo.train import total_steps

        rows = data.read_rows(recipe.data, say)
        splits = data.split_rows(rows, recipe.data.split, recipe.data.source)
        location = base.locate(recipe.model.name, say)
        config = base.load_config(recipe.model, location)
        encoder = encode.Encoder(encode.load_tokenizer(recipe.model, location), recipe.data, say)
        encoded = encoder.encode_splits(splits)
        steps = total_steps(recipe.train, len(encoded.train))
        shown = [example.row for example in encoded.train[: recipe.evaluate.shots]]
        prompts = [encoder.prompt(example.row, shown) for example in encoded.test] if shown else None
        skeleton = base.skeleton(config, recipe.model.trust_remote_code)
        prepared = Prepared(
            recipe=recipe,
            cells=cells,
            location=location,
            encoded=encoded,
            shots=prompts,
            steps=steps,
            trainable={},
            base_parameters=sum(parameter.numel() for parameter in skeleton.parameters()),
            linear_parameters=sum(p.numel() for layer in linear_layers(skeleton).values() for p in layer.parameters()),
            data_hash=hashlib.sha256(Path(recipe.data.source).read_bytes()).hexdigest(),
        )
        _check_on_skeleton(prepared, skeleton, zoo)
    return prepared


def run(
    recipe: Recipe,
    out: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    reporter: Reporter | None = None,
) -> list[Result]:
    """Train and measure every cell that has no result yet; returns the results of all.

    A cell that fails becomes a result with its reason, and the others go on.

    Raises:
        UserError: the recipe, the data or the model is at fault; nothing was trained.
    """
    reporter = reporter or SilentReporter()
    prepared = prepare(recipe, methods, seeds, reporter)
    store = Store(out)
    recipe_hash = store.begin(recipe.resolved(), prepared.data_hash)
    with _quiet_libraries():
        return _Run(prepared, store, recipe_hash, reporter).all()


class _Run:
    """One run of a recipe into one folder."""

    def __init__(self, prepared: Prepared, store: Store, recipe_hash: str, reporter: Reporter) -> None:
        from adapterzoo.environment import environment

        self.prepared = prepared
        self.recipe = prepared.recipe
        self.store = store
        self.reporter = reporter
        self.common = {
            "recipe_hash": recipe_hash,
            "data_fingerprint": prepared.encoded.fingerprint,
            "environment": environment(),
        }
        self.zoo = registry()

    def all(self) -> list[Result]:
        own = self.recipe.model.quantization
        wanted: list[Cell | tuple[str, bool]] = []
        if self.recipe.evaluate.base:
            wanted.append((BASE_LABEL, False))
            if self.prepared.shots is not None:
                wanted.append((f"{BASE_LABEL}-{self.recipe.evaluate.shots}-shot", True))
        wanted += self.prepared.cells
        self.reporter.begin(len(wanted), self.store.folder)
        finished: list[Result] = []
        for quantization, group in groupby(wanted, lambda item: item.base if isinstance(item, Cell) else own):
            finished += self._on_base(quantization, list(group))
        self.reporter.end()
        return finished

    def _on_base(self, quantization: str, wanted: list[Cell | tuple[str, bool]]) -> Iterator[Result]:
        """Everything that needs one base; it is loaded when the first of them has no result yet."""
        loaded = None
        for item in wanted:
            label, seed = (item.label, item.seed) if isinstance(item, Cell) else (item[0], 0)
            self.reporter.start(label, seed, self.prepared.steps if isinstance(item, Cell) else 0)
            result = self._finished(item, label, seed)
            if result is None:
                if loaded is None:
                    loaded = self._load(quantization)
                result = self._cell(item, loaded) if isinstance(item, Cell) else self._base_row(label, item[1], loaded)
                self.reporter.finish(result)
            else:
                self.reporter.finish(result, kept=True)
            yield result
        del loaded
        gc.collect()

    def _load(self, quantization: str) -> Any:
        from adapterzoo import base

        self.reporter.phase(f"loading the base ({quantization})")
        return base.load(self.recipe.model, self.prepared.location, quantization, self.recipe.data.max_length)

    def _finished(self, item: Cell | tuple[str, bool], label: str, seed: int) -> Result | None:
        """The result that is there already, if it is of this very cell and not a failure.

        Raises:
            UserError: it is of another cell under the same label.
        """
        result = self.store.load(label, seed)
        if result is None or not result.ok:
            return None
        if isinstance(item, Cell):
            there = (result.method, result.options, result.learning_rate)
            here = (item.method, item.options, item.learning_rate)
            if there != here:
                raise UserError.at(
                    str(self.store.cell(label, seed)),
                    f"holds '{label}' with other settings ({_first_difference(there, here)}).",
                    "Give it another label, remove that folder, or give --out another.",
                )
        return result

    def _base_row(self, label: str, with_shots: bool, base: Any) -> Result:
        from adapterzoo.evaluate import evaluate
        from adapterzoo.memory import PeakMemory

        self.reporter.phase("measuring the untouched base")
        begun = time.perf_counter()
        with PeakMemory() as peak, base.lend() as model:
            prompts = self.prepared.shots if with_shots else None
            metrics, predictions = evaluate(model, self.prepared.encoded, self.recipe.evaluate, prompts)
        result = Result(
            label=label,
            method=None,
            seed=0,
            base=base.quantization,
            metrics=metrics,
            total_params=base.parameters,
            evaluate_seconds=time.perf_counter() - begun,
            peak_memory_bytes=peak.bytes,
            **self.common,
        )
        self.store.clear(label, 0)
        self.store.write(result, (prediction.record() for prediction in predictions))
        return result

    def _cell(self, cell: Cell, base: Any) -> Result:
        from adapterzoo.memory import PeakMemory

        result = Result(
            label=cell.label,
            method=cell.method,
            seed=cell.seed,
            base=cell.base,
            options=cell.options,
            learning_rate=cell.learning_rate,
            steps=self.prepared.steps,
            total_params=base.parameters,
            **self.common,
        )
        folder = self.store.clear(cell.label, cell.seed)
        predictions: list[Any] = []
        try:
            with PeakMemory() as peak, base.lend() as model:
                predictions = self._train_and_measure(cell, model, result, folder)
            result.peak_memory_bytes = peak.bytes
        except Exception as error:  # whatever a method does wrong is its own row's failure
            result.status, result.error = "failed", _reason(error)
            (folder / results.TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
            predictions = []
            _free_memory()
        self.store.write(result, predictions)
        if result.ok:
            self.store.forget_checkpoints(cell.label, cell.seed)
        return result

    def _train_and_measure(self, cell: Cell, model: Any, result: Result, folder: Path) -> list[Any]:
        from transformers import set_seed

        from adapterzoo.evaluate import evaluate
        from adapterzoo.train import train

        method, context = self.zoo[cell.method], self.prepared.context(cell)
        options = method.options(**cell.options)
        before = sum(parameter.numel() for parameter in model.parameters())
        # Right before wrapping: whatever ran before, the adapter begins with the same numbers.
        set_seed(cell.seed)
        wrapped = method.wrap(model, options, context)
        parameters = list(wrapped.parameters())
        result.trainable_params = sum(p.numel() for p in parameters if p.requires_grad)
        result.total_params += sum(p.numel() for p in parameters) - before
        self.reporter.phase("training")
        trained = train(
            wrapped,
            self.prepared.encoded,
            self.recipe.train,
            learning_rate=cell.learning_rate,
            seed=cell.seed,
            folder=folder / results.CHECKPOINTS,
            callbacks=method.callbacks(options, context),
            resume=method.resumes,
            on_step=self.reporter.step,
        )
        result.train_seconds = trained.seconds
        result.tokens_per_second = trained.tokens / trained.seconds
        result.history = trained.history
        result.findings = method.findings(wrapped)
        self.reporter.phase("saving")
        method.save(wrapped, folder / ADAPTER)
        self.prepared.encoded.tokenizer.save_pretrained(str(folder / ADAPTER))
        result.adapter_bytes = results.folder_bytes(folder / ADAPTER)
        self.reporter.phase("measuring")
        begun = time.perf_counter()
        result.metrics, predictions = evaluate(wrapped, self.prepared.encoded, self.recipe.evaluate)
        result.evaluate_seconds = time.perf_counter() - begun
        return [prediction.record() for prediction in predictions]


def _check_cells(cells: Sequence[Cell], zoo: Registry) -> None:
    """Raises UserError for methods that ``--method`` brought in and that cannot train on their base."""
    impossible = {
        cell.method: Problem(
            f"--method {cell.method}",
            f"cannot train on a base with quantization {cell.base}.",
            f"It trains on: {', '.join(zoo[cell.method].bases)}.",
        )
        for cell in cells
        if cell.base not in zoo[cell.method].bases
    }
    if impossible:
        raise UserError(*impossible.values())


def _check_on_skeleton(prepared: Prepared, skeleton: Any, zoo: Registry) -> None:
    """Asks each method what cannot work on this architecture, and counts what each would train.

    Raises:
        UserError: with the problems of all methods.
    """
    from adapterzoo.base import Base

    problems = []
    whole = Base(skeleton, "none", lambda: skeleton)
    for cell in {cell.label: cell for cell in prepared.cells}.values():
        method, context = zoo[cell.method], prepared.context(cell)
        options = method.options(**cell.options)
        found = method.problems(skeleton, options, context)
        problems += [Problem(f"{cell.label}: {problem.where}", problem.what, problem.cure) for problem in found]
        if not found:
            with whole.lend() as model:
                prepared.trainable[cell.label] = _count_trainable(method, model, options, context)
    if problems:
        raise UserError(*problems)


def _count_trainable(method: Any, model: Any, options: Any, context: Context) -> int:
    """How many parameters a method would train; 0 where it cannot be told without weights."""
    import torch

    try:
        with torch.device("meta"):
            wrapped = method.wrap(model, options, context)
        return sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    except Exception:  # a method that needs real weights to begin with; the run itself will tell
        return 0


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """What transformers, PEFT and bitsandbytes print would run through the progress display."""
    import logging

    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    others = [logging.getLogger(name) for name in ("bitsandbytes", "peft", "accelerate", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in others]
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(before)
        for logger, level in zip(others, levels, strict=True):
            logger.setLevel(level)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    """Why a cell failed, in one line."""
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "not enough memory" in text.lower():
        return f"out of memory: {text}"[:300]
    return (text if isinstance(error, AdapterzooError) else f"{type(error).__name__}: {text}")[:300]


def _first_difference(there: tuple[Any, ...], here: tuple[Any, ...]) -> str:
    names = ("method", "options", "learning_rate")
    for name, old, new in zip(names, there, here, strict=True):
        if old != new:
            return f"{name}: {old!r} there, {new!r} here"
    return ""
