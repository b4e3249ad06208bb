"""Measure trained adapters on other data than that of their run, by the same code that measured them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.adapters.finding import Adapter, Say, check_files, find_adapters, folder_on
from adapterzoo.adapters.loading import apply_adapter, check_model
from adapterzoo.data.row_content import is_in
from adapterzoo.data.rows import read_rows
from adapterzoo.data.split import Splits, count_known_prompts, fingerprint, load_splits
from adapterzoo.data.stored_rows import content_digests, select
from adapterzoo.errors import Problem, UserError
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.examples import fit_recipe
from adapterzoo.prepare.plan import Cell, MethodCell, base_cells
from adapterzoo.prepare.prepare import encode_run, with_weights
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.recipe.other_data import other_data_recipe
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.result import Result
from adapterzoo.results.store import RECIPE, Store
from adapterzoo.running.cell import Adapted, shared_prefix
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.runner import run_cells
from adapterzoo.running.watch import Watch
from adapterzoo.running.worker import Worker
from adapterzoo.tasks.batches import hidden_rows
from adapterzoo.tasks.registry import tasks

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.machine.stopwatch import Stopwatch

MAX_SHOWN = 3  # further rows that were trained on are only counted
# Fields of a result that describe the training of its adapter, and stay true wherever the adapter is measured.
OF_TRAINING = ("history", "findings", "adapter_bytes", "adapter_files")


def evaluate(
    folder: Path,
    source: str,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    jobs: int | None = None,
    trust_remote_code: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Path, list[Result]]:
    """Measure adapters on other data, and the untouched base model if their run did.

    Results that the folder for them already has are kept, unless an adapter was trained again since.

    Args:
        folder: output folder of the run that trained the adapters.
        source: files, the folder of a saved dataset, or a hub id; all rows are test rows.
        methods: labels or names of methods; if empty, all.
        seeds: seeds of the adapters; if empty, all.
        overrides: assignments like ``data.columns={question: q}``, of the sections ``data`` and ``evaluate``.
        out: folder for the results; by default beside ``folder``, with the name of the source behind its own.
        jobs: how many adapters are measured at the same time; by default the recipe's number.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.
        reporter: shows the progress.

    Returns:
        The folder of the results, and the results.

    Raises:
        UserError: there are no such adapters, or something is wrong with their files, the data, the model or the
            folder; nothing was measured.
        OSError: a disk is full, or a file cannot be written; finished results are kept.
    """
    reporter = reporter or Reporter()
    adapters = find_adapters(folder, methods, seeds, trust_remote_code, reporter.say)
    recipe = other_data_recipe(folder / RECIPE, source, overrides)
    for adapter in adapters:
        check_files(adapter, reporter.say)
    threads = adapters[0].result.environment.get("threads")  # with another number, sums are rounded otherwise
    changes: dict[str, Any] = {"threads": threads} if threads else {}
    if jobs is not None:
        changes["jobs"] = jobs
    recipe = recipe.model_copy(update=changes)
    into = (out or folder_on(folder, Path(source).stem, overrides)).absolute()
    worker = partial(AdapterWorker, adapters={_key(adapter.result): adapter for adapter in adapters})
    return into, run_cells(recipe, into, Measuring(adapters, recipe).prepare, reporter, worker)


@dataclass(frozen=True)
class Measuring:
    """Trained adapters, and the data to measure them on."""

    adapters: Sequence[Adapter]
    """adapters of one output folder"""
    recipe: Recipe
    """recipe of their run, with the other data"""

    def prepare(self, say: Say, before_torch: Callable[[], None]) -> Prepared:
        """Read and encode the rows; check that the base model is the one of the training.

        Args:
            say: is called with messages about what was dropped or cut.
            before_torch: is called after the data was read and before torch computes anything.

        Raises:
            UserError: the data or the model has problems.
        """
        recipe, splits = self._read(say)
        cells: list[Cell] = [*base_cells(recipe), *(_cell(adapter.result) for adapter in self.adapters)]
        own = recipe.model.quantization
        cells.sort(key=lambda cell: (cell.quantization != own, cell.quantization))
        before_torch()
        with quiet_libraries():
            prepared, skeleton = encode_run(recipe, splits, cells, say, self.adapters[0].result.steps or 0)
            prepared = with_weights(prepared, skeleton)
        check_model(self.adapters[0], prepared.weights)
        # The training rows are those of the run, even if they could not be read again.
        trained_on = self.adapters[0].result.fingerprints
        known: dict[str, str | None] = {
            name: trained_on[name] for name in ("train", "validation") if name in trained_on
        }
        known["data"] = fingerprint([splits.test])
        return replace(prepared, fingerprints={**prepared.fingerprints, **known})

    def _read(self, say: Say) -> tuple[Recipe, Splits]:
        """Return the recipe with settings that depend on the rows, and the rows of the run with the other test rows.

        Raises:
            UserError: the data cannot be read, some of it was trained on, or the task needs the rows of the run.
        """
        recipe = self.recipe
        task, data = tasks()[recipe.task.name], recipe.data
        wanted = data.split.test if isinstance(data.split.test, str) else None
        rows, form = read_rows(data, data.sources, wanted, say, task.formats)
        train = self._training_rows(say)
        is_known = is_in(content_digests(rows), content_digests(train))
        if is_known.any():
            what = f"{is_known.sum()} of {len(rows)} rows were trained on"
            if data.split.duplicates == "error":
                known = select(rows, is_known.nonzero()[0][:MAX_SHOWN])
                shown = [Problem(row.place, "is a training row of the adapters.") for row in known]
                hint = "--set data.split.duplicates=drop leaves them out, keep measures on them."
                raise UserError(*shown, Problem(f"--data {', '.join(data.sources)}", f"{what}.", hint))
            say(f"data: {what}, and are {'kept' if data.split.duplicates == 'keep' else 'left out'}")
            if data.split.duplicates == "drop":
                rows = select(rows, (~is_known).nonzero()[0])
            if not rows:
                raise UserError.at(f"--data {', '.join(data.sources)}", "all rows were trained on.", "Give other data.")
        count_known_prompts(train, rows, say)
        splits = Splits(train, [], rows, fingerprint([train, [], rows]), form)
        recipe = recipe.model_copy(update={"data": data.model_copy(update={"format": form})})
        return fit_recipe(recipe, task, splits, say), splits

    def _training_rows(self, say: Say) -> Sequence[Any]:
        """Return the rows that the adapters were trained on; none if they are not needed and cannot be read."""
        adapter = self.adapters[0]
        task = tasks()[adapter.recipe.task.name]
        try:
            splits = load_splits(adapter.recipe.data, formats=task.formats)
            digest = adapter.result.fingerprints.get("train")
            if digest is None or digest == fingerprint([splits.train]):
                return splits.train
            why = "the rows that the adapters were trained on have changed since"
        except UserError as error:
            why = f"the rows that the adapters were trained on cannot be read: {error.problems[0]}"
        if not task.causal or self.recipe.evaluate.shots:
            hint = "Put them back." if not task.causal else "Put them back, or give --set evaluate.shots=0."
            raise UserError.at(str(adapter.folder), f"{why.rstrip('.')}.", hint)
        say(f"{why.rstrip('.')}, so it is not known whether test rows are among them")
        return []


def _key(result: Result) -> tuple[str, int]:
    """Return the label and the seed of a cell."""
    return result.label, result.seed


def _cell(result: Result) -> MethodCell:
    """Return the cell that measures the adapter of a result."""
    assert result.method is not None
    return MethodCell(
        label=result.label,
        method=result.method,
        quantization=result.quantization,
        seed=result.seed,
        options=result.options,
        learning_rate=result.learning_rate or 0.0,
        plugin=result.plugin,
        budget=result.budget,
    )


class AdapterWorker(Worker):
    """Measures the cells of a run whose adapters were trained before."""

    def __init__(
        self,
        prepared: Prepared,
        store: Store,
        identity: Mapping[str, Any],
        adapters: Mapping[tuple[str, int], Adapter],
    ) -> None:
        super().__init__(prepared, store, identity)
        self.devices = 1
        self.adapters = adapters
        """label and seed of a cell -> its adapter"""

    def outdated(self, result: Result) -> str | None:
        """See :meth:`Worker.outdated`."""
        adapter = self.adapters.get(_key(result))
        same = adapter is None or adapter.result.adapter_files == result.adapter_files
        return None if same else "the adapter was trained again since it was measured"

    def _tuned(self, prepared: Prepared, cell: MethodCell, *_: Any) -> Any:
        return cell, self.adapters[cell.label, cell.seed].result.tuning

    def _adapted(self, prepared: Prepared, cell: MethodCell, model: nn.Module, watch: Watch) -> Adapted:
        from adapterzoo.training.fair_play import FairPlay

        adapter = self.adapters[cell.label, cell.seed]
        method, result = registry()[cell.method], adapter.result
        fair_play = FairPlay(method)
        fair_play.departures = {**result.broken_rules, **result.declared_departures}
        with hidden_rows(prepared.encoded):
            wrapped = apply_adapter(adapter, model, cell.quantization)
        return Adapted(
            method,
            method.options(**cell.options),
            prepared.context(cell),
            wrapped,
            trainable=result.trainable_params,
            added=result.total_params - prepared.base_parameters,
            head={},
            head_params=result.head_params,
            head_bytes=0,
            fair_play=fair_play,
            prefix=shared_prefix(prepared, cell, wrapped, watch, token_wise=method.token_wise),
        )

    def _train(
        self, prepared: Prepared, cell: MethodCell, adapted: Adapted, folder: Path, watch: Watch, clock: Stopwatch
    ) -> dict[str, Any]:
        """Return what is known of the training; an adapter that is only measured is not trained again."""
        adapter = self.adapters[cell.label, cell.seed]
        kept = {name: getattr(adapter.result, name) for name in OF_TRAINING}
        adapted.fair_play.counted = dict(adapter.result.counted)
        return {**kept, "trained_in": str(adapter.folder.absolute())}
