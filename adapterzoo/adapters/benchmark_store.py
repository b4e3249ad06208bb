"""The output folder of a benchmark: what its results have in common, and which of them are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapterzoo.adapters.asking import Answerer
from adapterzoo.adapters.benchmarks import LIBRARY, Benchmark
from adapterzoo.adapters.finding import Adapter
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.plan import BASE_LABEL
from adapterzoo.recipe.reading import kept_recipe
from adapterzoo.results.identity import identity_hash
from adapterzoo.results.reading import DamagedResultError, read_result
from adapterzoo.results.result import RESULT, Result
from adapterzoo.results.store import Store
from adapterzoo.results.suitable import check_recipe

SECTION = "lm_eval"
"""section of a result's recipe with the settings of the benchmark"""
# Fields of a result that are about training and measuring in its run, and are not known of a benchmark.
OF_RUN = (
    "shared_prefix", "train_seconds", "answer_seconds", "tokens_per_second", "positions_per_token", "peak_memory_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkStore:
    """A benchmark, and the folder for its results."""

    benchmark: Benchmark
    store: Store
    common: Mapping[str, Any]
    """fields that all results have in common"""

    @classmethod
    def of(cls, benchmark: Benchmark, into: Path, adapter: Adapter) -> BenchmarkStore:
        """Return the store of a benchmark, after checking that the folder is free for it.

        Args:
            benchmark: the benchmark.
            into: folder for its results.
            adapter: one of the adapters.

        Raises:
            UserError: the folder holds other results.
        """
        from adapterzoo.machine.environment import environment

        rows = benchmark.rows_digest()
        of_run = adapter.result
        data: dict[str, Any] = {**of_run.recipe.get("data", {}), "rows": rows}
        recipe = {**of_run.recipe, "evaluate": {}, "data": data, SECTION: benchmark.settings()}
        of_rows: dict[str, str | None] = {"recipe": identity_hash(recipe), "data": rows, "test": rows}
        common = {
            "recipe": recipe,
            "fingerprints": {**of_run.fingerprints, **of_rows},
            "environment": {**environment([LIBRARY]), "jobs": 1},
        }
        store = Store(into)
        check_recipe(into, recipe)
        return cls(benchmark, store, common)

    def begin(self, answerers: Sequence[Answerer]) -> None:
        """Create the folder, and lock it.

        Raises:
            UserError: it cannot be written, or another run is writing into it.
        """
        resolved = kept_recipe(answerers[0].adapter.recipe, registry())
        self.store.begin(resolved, self.common["recipe"], [(each.label, seed_of(each)) for each in answerers])

    def finished(self, answerer: Answerer) -> Result | None:
        """Return the result of a model if it was measured already and has not changed since."""
        path = self.store.cell(answerer.label, seed_of(answerer)) / RESULT
        try:
            result = read_result(path) if path.is_file() else None
        except DamagedResultError:
            return None
        if result is None or not result.ok:
            return None
        same = answerer.untouched or result.adapter_files == answerer.adapter.result.adapter_files
        return result if same else None

    def empty(self, answerer: Answerer, parameters: int) -> Result:
        """Return the result of a model without what was measured.

        Args:
            answerer: the model.
            parameters: number of parameters of the base model.
        """
        if answerer.untouched:
            return Result(BASE_LABEL, None, 0, answerer.quantization, total_params=parameters, **self.common)
        cleared: dict[str, Any] = dict.fromkeys(OF_RUN, None)
        trained_in = str(answerer.adapter.folder.absolute())
        cleared |= {"metrics": {}, "lower_is_better": [], "record_digests": {}, "seconds": {}, "evaluate_seconds": None}
        return replace(answerer.adapter.result, trained_in=trained_in, **{**cleared, **self.common})


def seed_of(answerer: Answerer) -> int:
    """Return the seed of a model's result."""
    return 0 if answerer.untouched else answerer.adapter.result.seed
