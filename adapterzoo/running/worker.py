"""Train and measure a cell, and write its result folder, whether the cell succeeds or fails."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError, PluginError, failure_reason, is_disk_full
from adapterzoo.files import remove, sync, temporary_path
from adapterzoo.machine import settling
from adapterzoo.machine.limits import TooLongError, stopped_after
from adapterzoo.machine.memory import PeakMemory, free_memory
from adapterzoo.machine.stopping import StoppedError
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.machine.world import put_right
from adapterzoo.methods.registry import registry
from adapterzoo.model.head import save_adapter
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.prepare.settings import with_settings
from adapterzoo.results.adapter_folder import adapter_files, has_weights, weight_bytes
from adapterzoo.results.result import FORGETTING, Result, Tuning, plain_findings
from adapterzoo.results.store import ADAPTER, CHECKPOINTS, SETTINGS, TRACEBACK, Store
from adapterzoo.running.cell import Adapted, adapt, import_libraries, shared_prefix, train
from adapterzoo.running.cell_results import CellResults, finite, known
from adapterzoo.running.measuring import measure, measure_general
from adapterzoo.running.of_base import OfBase, informed
from adapterzoo.running.trials import tune_cell
from adapterzoo.running.watch import Watch

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.tasks.evaluation import Likelihood

MIN_SECONDS = 0.01  # shorter activities are not kept in a result


class Worker:
    """Trains and measures the cells of one run; each can be done in any process and in any order."""

    def __init__(self, prepared: Prepared, store: Store, identity: Mapping[str, Any]) -> None:
        self.prepared = prepared
        self.store = store
        self.results = CellResults(prepared, identity)
        self.devices = prepared.recipe.train.devices
        """number of processes that do a cell together"""
        self.model_folder: str | None = None
        """folder of the base model, if this machine does not have it where the run was prepared"""

    def load(self, quantization: str) -> Base:
        """Load the run's base model with a quantization.

        Raises:
            UserError: it cannot be loaded.
        """
        from adapterzoo.model import base

        recipe, location = self.prepared.recipe, self.prepared.location
        length, form = recipe.data.max_length, self.prepared.encoded.form
        folder, divided = self.model_folder or location, recipe.train.weight_parts > 1
        return base.load(recipe.model, folder, quantization, length, form, name=location, divided=divided)

    def do(
        self,
        cell: Cell,
        base: Base,
        watch: Watch,
        *,
        tuning: Tuning | AdapterzooError | None = None,
        of_base: OfBase | None = None,
        limit: float | None = None,
    ) -> Result:
        """Train and measure a cell, and write its result.

        Args:
            cell: a cell of the run's plan.
            base: the base model with the cell's quantization; the cell borrows it and leaves it unchanged.
            watch: receives the progress.
            tuning: tuning of the cell's label, or why it failed; if None, the cell is tuned first if it has ranges.
            of_base: what the cell needs to know of the untouched base model; None if it needs nothing.
            limit: seconds that it may take, if nobody ends this process after them.

        Returns:
            The result as it was written.

        Raises:
            TooLongError: the limit was reached while nothing of the cell was done, or all of it.
        """
        method = [registry()[cell.method]] if isinstance(cell, MethodCell) else []
        import_libraries(self.prepared)
        limited = stopped_after(limit, waiting=True) if limit is not None else nullcontext()
        # The limit is the inner one: what a method has changed in its libraries is put right after it too.
        with put_right(lambda what: watch.say(f"{cell.label}: {what}"), *method, also=base.replaced), limited:
            return self._do(cell, base, watch, tuning, of_base)

    def _do(
        self,
        cell: Cell,
        base: Base,
        watch: Watch,
        tuning: Tuning | AdapterzooError | None,
        of_base: OfBase | None,
    ) -> Result:
        clock = Stopwatch()
        adapted: Adapted | None = None
        general = of_base.general if of_base else None
        try:
            prepared = informed(self.prepared, cell, of_base)
            if isinstance(cell, MethodCell):
                with clock("tuning"):
                    cell, tuning = self._tuned(prepared, cell, base, watch, tuning)
            folder = self._cleared(cell, watch)
            with base.borrow() as model:
                with PeakMemory() as peak:
                    if isinstance(cell, MethodCell):
                        with clock("wrapping"):
                            adapted = self._adapted(prepared, cell, model, watch)
                        training = self._train(prepared, cell, adapted, folder, watch, clock)
                        model, prefix = adapted.model, adapted.prefix
                    else:
                        training, prefix = {}, shared_prefix(prepared, cell, model, watch)
                    watch.phase("measuring" if adapted else "measuring the untouched base")
                    with clock("measuring"):
                        measured = measure(prepared, cell, model, prefix, watch, adapted.fair_play if adapted else None)
                with clock("general text"):
                    forgetting, paragraphs = self._measure_forgetting(model, general) if adapted else ({}, [])
                del model
            result = self.results.make(
                cell,
                metrics=finite({**measured.metrics, **forgetting}),
                shared_prefix=prefix is not None,
                evaluate_seconds=clock.seconds["measuring"],
                answer_seconds=measured.answer_seconds,
                peak_memory_bytes=peak.bytes,
                seconds={name: seconds for name, seconds in clock.seconds.items() if seconds >= MIN_SECONDS},
                **training,
                **(adapted.fair_play.record() if adapted else {}),
                **known(base, tuning, adapted),
            )
            result = self.store.write(result, (prediction.record() for prediction in measured.predictions), paragraphs)
        except (KeyboardInterrupt, StoppedError):  # the user stops the run
            raise
        except BaseException as error:  # an error of a method must only fail its own row
            settling.wait_if_lost(error)
            if is_disk_full(error):
                watch.disk_full(failure_reason(error))
                raise
            limit = self.prepared.recipe.train.time_limit
            late = limit is not None and isinstance(error, TooLongError)
            why = too_long(limit) if late else failure_reason(error)
            return self.fail(cell, why, traceback.format_exc(), keep_checkpoints=late, **known(base, tuning, adapted))
        free_memory()
        return result

    def outdated(self, result: Result) -> str | None:
        """Return why a result that a cell already has does not count any more; None if it does."""
        return None

    def fail(self, cell: Cell, why: str, details: str, *, keep_checkpoints: bool = False, **fields: Any) -> Result:
        """Write the result of a cell that failed.

        Args:
            cell: the cell.
            why: the reason in one line.
            details: a traceback, or what the cell's process printed.
            keep_checkpoints: whether to keep the checkpoints, because they did not cause the failure.
            fields: other fields of the result that are known.

        Returns:
            The result as it was written.
        """
        self.store.require_claim()
        result = self.results.make(cell, status="failed", error=why, **fields)
        folder = self.store.cell(cell.label, cell.seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRACEBACK).write_text(details, encoding="utf-8")
        result = self.store.write(result, keep_checkpoints=keep_checkpoints)
        free_memory()
        return result

    def _cleared(self, cell: Cell, watch: Watch) -> Path:
        """Remove older results of a cell, and say if its checkpoints cannot be used; return its folder."""
        folder, depends_on = self.store.cell(cell.label, cell.seed), self.results.depends_on(cell)
        if any(folder.glob(f"{CHECKPOINTS}/checkpoint-*")) and not self.store.suits(folder, depends_on):
            what = f"the checkpoints are of other settings or packages, or {SETTINGS} is damaged: training begins anew"
            watch.say(f"{cell.label}, seed {cell.seed}: {what}")
        return self.store.clear(cell.label, cell.seed, depends_on)

    def _tuned(
        self,
        prepared: Prepared,
        cell: MethodCell,
        base: Base,
        watch: Watch,
        tuning: Tuning | AdapterzooError | None,
    ) -> tuple[MethodCell, Tuning | None]:
        """Return the cell with its chosen settings, and its tuning; without ranges, return the cell unchanged and None.

        Raises:
            AdapterzooError: tuning failed.
        """
        if not cell.ranges:
            return cell, None
        if tuning is None:
            try:
                tuning = tune_cell(prepared, cell, base, self.store.label(cell.label), watch)
            except AdapterzooError as error:
                tuning = error
            watch.tuned(tuning)
        if isinstance(tuning, AdapterzooError):
            raise tuning
        return with_settings(cell, tuning["chosen"]), tuning

    def _adapted(self, prepared: Prepared, cell: MethodCell, model: nn.Module, watch: Watch) -> Adapted:
        """Return the base model with the adapter of a cell on it."""
        return adapt(prepared, cell, model, watch)

    def _train(
        self,
        prepared: Prepared,
        cell: MethodCell,
        adapted: Adapted,
        folder: Path,
        watch: Watch,
        clock: Stopwatch,
    ) -> dict[str, Any]:
        """Train an adapter and save it; return the fields of the result that describe the training."""
        with clock("training"):
            trained = train(prepared, cell, adapted, folder / CHECKPOINTS, watch)
        findings = plain_findings(adapted.method.findings(adapted.model))
        with clock("saving"):
            self._save(adapted, folder / ADAPTER)
        return {
            "train_seconds": trained.seconds,
            "tokens_per_second": trained.tokens / trained.seconds,
            "positions_per_token": trained.positions_per_token,
            "history": trained.history,
            "findings": findings,
            "adapter_bytes": weight_bytes(folder / ADAPTER) - adapted.head_bytes,
            "adapter_files": adapter_files(folder / ADAPTER),
        }

    def _save(self, adapted: Adapted, folder: Path) -> None:
        """Save an adapter, its tokenizer, and a new head that the method does not save itself.

        Raises:
            PluginError: the method wrote no safetensors file.
        """
        from adapterzoo.model.base import named

        self.store.require_claim()
        new = temporary_path(folder)
        remove(new)
        with named(adapted.model, self.prepared.location):
            save_adapter(adapted.method, adapted.model, adapted.head, new)
        if not has_weights(new):
            raise PluginError(f"save() of {adapted.method.name} wrote no safetensors into its folder")
        self.prepared.encoded.tokenizer.save_pretrained(str(new))
        sync(new)
        os.replace(new, folder)

    def _measure_forgetting(
        self, model: nn.Module, before: Sequence[Likelihood] | AdapterzooError | None
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Return forgetting as a metric, and a record for each paragraph; both empty if it is not measured."""
        general = self.prepared.general
        if general is None or before is None or isinstance(before, AdapterzooError):
            return {}, []
        change, paragraphs = general.change(before, measure_general(self.prepared, model))
        return {FORGETTING: change}, paragraphs


def too_long(limit: float | None) -> str:
    """Return the reason for the failure of a cell that reached the recipe's time limit."""
    return f"it took longer than train.time_limit, {limit:g} seconds"
