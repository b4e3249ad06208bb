"""Runs a recipe: each base loaded once, each cell trained and measured on it, each result written as it ends."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.cell import adapt, measure, train, tuned
from adapterzoo.errors import AdapterzooError, PluginError, Problem, UserError
from adapterzoo.memory import free_memory
from adapterzoo.metric_registry import lower_is_better, metric_packages
from adapterzoo.plan import Cell
from adapterzoo.prepare import Prepared, prepare, quiet_libraries
from adapterzoo.progress import Reporter
from adapterzoo.reading import kept_recipe
from adapterzoo.recipe import Recipe
from adapterzoo.registry import registry
from adapterzoo.results import FORGETTING, SETTINGS, Result, Tuning, plain_findings
from adapterzoo.store import ADAPTER, CHECKPOINTS, TRACEBACK, Store, adapter_files, changed_files, folder_bytes
from adapterzoo.tuning import chosen

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.base import Base
    from adapterzoo.evaluate import Likelihood, Prediction


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
    reporter = reporter or Reporter()
    prepared = prepare(recipe, methods, seeds, reporter.say)
    store = Store(out)
    resolved = prepared.recipe.resolved()
    recipe_hash = store.check(resolved, prepared.encoded.fingerprint, prepared.weights)
    with quiet_libraries():
        runner = _Runner(prepared, store, recipe_hash, reporter)
        store.begin(
            kept_recipe(prepared.recipe, registry()), recipe_hash, [(cell.label, cell.seed) for cell in prepared.cells]
        )
        reporter.begin(len(prepared.cells), out)
        try:
            return list(runner.all())
        finally:
            store.release()


class _Runner:
    """One run of a recipe into one folder."""

    def __init__(self, prepared: Prepared, store: Store, recipe_hash: str, reporter: Reporter) -> None:
        from adapterzoo.environment import environment

        self.prepared = prepared
        self.recipe = prepared.recipe  # with what the data made of it
        self.store = store
        self.reporter = reporter
        self.kept = self._whole(_finished(prepared.cells, store))
        self.general: dict[str, list[Likelihood]] = {}
        """what each base makes of the general text, by its quantization"""
        self.tunings: dict[str, Tuning | AdapterzooError] = {}
        """what was chosen, or why nothing was, by label"""
        self.common: dict[str, Any] = {
            "fingerprints": {"recipe": recipe_hash, **prepared.fingerprints},
            "recipe": store.identity,
            "environment": environment(metric_packages(self.recipe.evaluate.metrics)),
        }

    def _whole(self, finished: dict[tuple[str, int], Result]) -> dict[tuple[str, int], Result]:
        """Return the results whose adapters are what was written; the other cells are trained again."""
        kept = {}
        for (label, seed), result in finished.items():
            if changed := changed_files(self.store.cell(label, seed), result):
                self.reporter.say(f"{label}, seed {seed}: {changed[0]} is not what was written: trained again")
            else:
                kept[label, seed] = result
        return kept

    def all(self) -> Iterator[Result]:
        measured = False
        for quantization, group in groupby(self.prepared.cells, lambda cell: cell.base):
            base: Base | Exception | None = None
            for cell in group:
                self.reporter.start(cell.label, cell.seed)
                result = self.kept.get((cell.label, cell.seed))
                if result is None:
                    base = base or self._load(quantization, keep_going=measured)
                    result = self._cell(cell, base)
                    measured = True
                    self.reporter.finish(result)
                else:
                    self.reporter.finish(result, kept=True)
                yield result
            del base
            gc.collect()

    def _load(self, quantization: str, keep_going: bool) -> Base | Exception:
        """A base; where others were used before, what keeps it from loading is the failure of its own cells."""
        from adapterzoo import base

        self.reporter.phase(f"loading the base ({quantization})")
        try:
            loaded = base.load(
                self.recipe.model,
                self.prepared.location,
                quantization,
                self.recipe.data.max_length,
                self.prepared.vocabulary,
            )
            if self.prepared.general is not None:
                with loaded.lend() as model:
                    self.general[quantization] = self.prepared.general.measure(model)
            return loaded
        except Exception as error:
            if not keep_going:
                raise
            return error

    def _cell(self, cell: Cell, base: Base | Exception) -> Result:
        """Do a cell and write it down, whatever comes of it."""
        from adapterzoo.memory import PeakMemory

        result = Result(
            label=cell.label,
            method=cell.method,
            seed=cell.seed,
            base=cell.base,
            plugin=cell.plugin,
            options=cell.options,
            learning_rate=cell.learning_rate,
            steps=self.prepared.steps if cell.method else None,
            budget=cell.budget,
            lower_is_better=lower_is_better(self.recipe.evaluate.metrics),
            **self.common,
        )
        folder = self.store.cell(cell.label, cell.seed)
        predictions: list[Prediction] = []
        paragraphs: list[dict[str, float]] = []
        try:
            if isinstance(base, Exception):
                raise base
            cell = self._tuned(cell, base, result)
            self.store.clear(cell.label, cell.seed, self._depends_on(cell))
            result.total_params = base.parameters
            with base.lend() as model:
                with PeakMemory() as peak:
                    trained = self._train(cell, model, result, folder) if cell.method else model
                    predictions = self._measure(cell, trained, result)
                result.peak_memory_bytes = peak.bytes
                paragraphs = self._forgotten(cell, trained, result)
                del trained
        except (Exception, SystemExit) as error:  # whatever a method does wrong is its own row's failure
            result.status, result.error, result.metrics = "failed", _reason(error), {}
            folder.mkdir(parents=True, exist_ok=True)
            (folder / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
        self.store.write(result, (prediction.record() for prediction in predictions), paragraphs)
        free_memory()
        return result

    def _depends_on(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's training depends on beside the recipe: a checkpoint of anything else is no use."""
        settings = {name: getattr(cell, name) for name in SETTINGS}
        return {**settings, "packages": self.common["environment"]["packages"]}

    def _tuned(self, cell: Cell, base: Base, result: Result) -> Cell:
        """The cell with the settings that the validation rows chose, where the recipe has some tried."""
        if not cell.ranges:
            return cell
        # All seeds of a label have the settings that were chosen once.
        if cell.label not in self.tunings:
            done = [kept.tuning for (label, _), kept in self.kept.items() if label == cell.label and kept.tuning]
            try:
                folder = self.store.label(cell.label)
                self.tunings[cell.label] = done[0] if done else tuned(self.prepared, cell, base, folder, self.reporter)
            except AdapterzooError as error:
                self.tunings[cell.label] = error
        found = self.tunings[cell.label]
        if isinstance(found, Exception):
            raise found
        result.tuning = found
        cell = chosen(cell, found["chosen"])
        result.options, result.learning_rate = cell.options, cell.learning_rate
        return cell

    def _train(self, cell: Cell, model: nn.Module, result: Result, folder: Path) -> nn.Module:
        """Train and save; returns the wrapped model."""
        adapted = adapt(self.prepared, cell, model)
        result.trainable_params = adapted.trainable
        result.total_params += adapted.added
        trained = train(self.prepared, cell, adapted, folder / CHECKPOINTS, self.reporter)
        result.train_seconds = trained.seconds
        result.tokens_per_second = trained.tokens / trained.seconds
        result.history = trained.history
        result.findings = plain_findings(adapted.method.findings(adapted.model))
        adapted.method.save(adapted.model, folder / ADAPTER)
        if not any((folder / ADAPTER).glob("*.safetensors")):
            raise PluginError(f"save() of {adapted.method.name} wrote no safetensors into its folder")
        self.prepared.encoded.tokenizer.save_pretrained(str(folder / ADAPTER))
        result.adapter_bytes = folder_bytes(folder / ADAPTER)
        result.adapter_files = adapter_files(folder / ADAPTER)
        return adapted.model

    def _measure(self, cell: Cell, model: nn.Module, result: Result) -> list[Prediction]:
        self.reporter.phase("measuring" if cell.method else "measuring the untouched base")
        begun = time.perf_counter()
        result.metrics, predictions, result.answer_seconds = measure(self.prepared, cell, model)
        result.evaluate_seconds = time.perf_counter() - begun
        return predictions

    def _forgotten(self, cell: Cell, model: nn.Module, result: Result) -> list[dict[str, float]]:
        """What became of general text, a line each paragraph."""
        general = self.prepared.general
        if general is None or cell.method is None:
            return []
        change, paragraphs = general.change(self.general[cell.base], general.measure(model))
        result.metrics[FORGETTING] = change
        return paragraphs


def _finished(cells: Sequence[Cell], store: Store) -> dict[tuple[str, int], Result]:
    """The results that are there already; those of failures are not.

    Raises:
        UserError: a label holds results that were made with other settings.
    """
    kept, problems = {}, []
    # Of all seeds: those that are not asked for today stand in the same row.
    wanted = {cell.label: cell for cell in cells}
    for result in (result for label in wanted for result in store.of(label) if result.ok):
        cell = wanted[result.label]
        kept[result.label, result.seed] = result
        if result.tuning:
            cell = chosen(cell, result.tuning["chosen"])
        for name in SETTINGS:
            there, here = getattr(result, name), getattr(cell, name)
            if there != here:
                what = f"holds '{cell.label}' with other settings ({name}: {there!r} there, {here!r} here)."
                cure = "Give it another label, remove that folder, or give --out another."
                problems.append(Problem(str(store.cell(result.label, result.seed)), what, cure))
                break
    if problems:
        raise UserError(*problems)
    return kept


def _reason(error: BaseException) -> str:
    """Why a cell failed, in one line."""
    text: str = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "not enough memory" in text.lower():
        return f"out of memory: {text}"[:300]
    return (text if isinstance(error, AdapterzooError) else f"{type(error).__name__}: {text}")[:300]
