"""A worker takes a cell and writes one result folder, whatever comes of the cell."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError, PluginError
from adapterzoo.machine.memory import free_memory
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.metrics.registry import lower_is_better, metric_packages
from adapterzoo.prepare.plan import Cell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.prepare.settings import chosen
from adapterzoo.results.result import FORGETTING, SETTINGS, Result, Tuning, plain_findings
from adapterzoo.results.store import ADAPTER, CHECKPOINTS, TRACEBACK, Store, adapter_files, folder_bytes
from adapterzoo.running.cell import Adapted, adapt, measure, shared_prefix, train, tuned
from adapterzoo.running.watch import Watch

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.evaluation.evaluate import Likelihood, Prediction
    from adapterzoo.model.base import Base
    from adapterzoo.tokens.shared_prefix import SharedPrefix

SHORTEST = 0.01  # seconds that are worth a line


class Worker:
    """Does the cells of one run, in whatever process and order."""

    def __init__(self, prepared: Prepared, store: Store, recipe_hash: str) -> None:
        from adapterzoo.machine.environment import environment

        self.prepared = prepared
        self.store = store
        self.threads = 1
        """that each cell has"""
        self.jobs = 1
        """cells at a time"""
        self._common: dict[str, Any] = {
            "fingerprints": {"recipe": recipe_hash, **prepared.fingerprints},
            "recipe": store.identity,
            "environment": environment(metric_packages(prepared.recipe.evaluate.metrics)),
        }

    def do(
        self,
        cell: Cell,
        base: Base,
        watch: Watch,
        *,
        tuning: Tuning | AdapterzooError | None = None,
        general: Sequence[Likelihood] | AdapterzooError | None = None,
    ) -> Result:
        """Do a cell and write it down.

        Args:
            cell: of the run's plan.
            base: the model with the cell's quantization; lent, and given back as it was.
            watch: is told how it goes.
            tuning: what was chosen for the cell's label, or why nothing was; None where that is to be found out.
            general: how likely general text is to the base, where the recipe wants that, or why it is not known.
        """
        from adapterzoo.machine.memory import PeakMemory

        result = self.begin(cell)
        clock = Stopwatch()
        predictions: list[Prediction] = []
        paragraphs: list[dict[str, float]] = []
        try:
            if cell.method and isinstance(general, AdapterzooError):
                raise general
            with clock("tuning"):
                cell = self._tuned(cell, base, result, watch, tuning)
            folder = self.store.clear(cell.label, cell.seed, self._depends_on(cell))
            result.total_params = base.parameters
            with base.borrow() as model:
                with PeakMemory() as peak:
                    if cell.method:
                        trained, prefix = self._train(cell, model, result, folder, watch, clock)
                    else:
                        trained, prefix = model, shared_prefix(self.prepared, cell, model, watch)
                    result.shared_prefix = prefix is not None
                    with clock("measuring"):
                        predictions = self._measure(cell, trained, prefix, result, watch)
                result.peak_memory_bytes = peak.bytes
                with clock("general text"):
                    paragraphs = self._forgotten(cell, trained, result, general)
                del trained
        except (Exception, SystemExit) as error:  # whatever a method does wrong is its own row's failure
            return self.fail(result, reason(error), traceback.format_exc())
        result.seconds = {name: seconds for name, seconds in clock.seconds.items() if seconds >= SHORTEST}
        self.store.write(result, (prediction.record() for prediction in predictions), paragraphs)
        free_memory()
        return result

    def begin(self, cell: Cell) -> Result:
        """Return the result of a cell of which nothing was done yet."""
        environment = {**self._common["environment"], "threads": self.threads, "jobs": self.jobs}
        return Result(
            label=cell.label,
            method=cell.method,
            seed=cell.seed,
            quantization=cell.quantization,
            plugin=cell.plugin,
            options=cell.options,
            learning_rate=cell.learning_rate,
            steps=self.prepared.steps if cell.method else None,
            budget=cell.budget,
            lower_is_better=lower_is_better(self.prepared.recipe.evaluate.metrics),
            **{**self._common, "environment": environment},
        )

    def fail(self, result: Result, why: str, details: str, keep_checkpoints: bool = False) -> Result:
        """Write down a cell that came to nothing.

        Args:
            result: as far as it got.
            why: in one line.
            details: a traceback, or what was printed.
            keep_checkpoints: where they are not at fault: its process was killed, for instance.
        """
        result.status, result.error, result.metrics = "failed", why, {}
        folder = self.store.cell(result.label, result.seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRACEBACK).write_text(details, encoding="utf-8")
        self.store.write(result, keep_checkpoints=keep_checkpoints)
        free_memory()
        return result

    def _depends_on(self, cell: Cell) -> Mapping[str, Any]:
        """Return what a cell's training depends on beside the recipe: a checkpoint of anything else is no use."""
        settings = {name: getattr(cell, name) for name in SETTINGS}
        return {**settings, "packages": self._common["environment"]["packages"]}

    def _tuned(
        self, cell: Cell, base: Base, result: Result, watch: Watch, tuning: Tuning | AdapterzooError | None
    ) -> Cell:
        """Return the cell with the settings that the validation rows chose, where the recipe has some tried."""
        if not cell.ranges:
            return cell
        if tuning is None:
            try:
                tuning = tuned(self.prepared, cell, base, self.store.label(cell.label), watch)
            except AdapterzooError as error:
                tuning = error
            watch.tuned(tuning)
        if isinstance(tuning, AdapterzooError):
            raise tuning
        result.tuning = tuning
        cell = chosen(cell, tuning["chosen"])
        result.options, result.learning_rate = cell.options, cell.learning_rate
        return cell

    def _train(
        self, cell: Cell, model: nn.Module, result: Result, folder: Path, watch: Watch, clock: Stopwatch
    ) -> tuple[nn.Module, SharedPrefix | None]:
        """Train and save; returns the wrapped model, and what makes batches of rows that begin alike."""
        with clock("wrapping"):
            adapted = adapt(self.prepared, cell, model, watch)
        result.trainable_params = adapted.trainable
        result.total_params += adapted.added
        with clock("training"):
            trained = train(self.prepared, cell, adapted, folder / CHECKPOINTS, watch)
        result.train_seconds = trained.seconds
        result.tokens_per_second = trained.tokens / trained.seconds
        result.positions_per_token = trained.positions_per_token
        result.history = trained.history
        result.findings = plain_findings(adapted.method.findings(adapted.model))
        with clock("saving"):
            self._save(adapted, result, folder)
        return adapted.model, adapted.prefix

    def _save(self, adapted: Adapted, result: Result, folder: Path) -> None:
        adapted.method.save(adapted.model, folder / ADAPTER)
        if not any((folder / ADAPTER).glob("*.safetensors")):
            raise PluginError(f"save() of {adapted.method.name} wrote no safetensors into its folder")
        self.prepared.encoded.tokenizer.save_pretrained(str(folder / ADAPTER))
        result.adapter_bytes = folder_bytes(folder / ADAPTER)
        result.adapter_files = adapter_files(folder / ADAPTER)

    def _measure(
        self, cell: Cell, model: nn.Module, prefix: SharedPrefix | None, result: Result, watch: Watch
    ) -> list[Prediction]:
        watch.phase("measuring" if cell.method else "measuring the untouched base")
        begun = time.perf_counter()
        result.metrics, predictions, result.answer_seconds = measure(self.prepared, cell, model, prefix)
        result.evaluate_seconds = time.perf_counter() - begun
        return predictions

    def _forgotten(
        self, cell: Cell, model: nn.Module, result: Result, before: Sequence[Likelihood] | AdapterzooError | None
    ) -> list[dict[str, float]]:
        """Return what became of general text, a line each paragraph."""
        general = self.prepared.general
        if general is None or before is None or isinstance(before, AdapterzooError) or cell.method is None:
            return []
        change, paragraphs = general.change(before, general.measure(model))
        result.metrics[FORGETTING] = change
        return paragraphs


def reason(error: BaseException) -> str:
    """Return why a cell failed, in one line."""
    text: str = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "not enough memory" in text.lower():
        return f"out of memory: {text}"[:300]
    return (text if isinstance(error, AdapterzooError) else f"{type(error).__name__}: {text}")[:300]
