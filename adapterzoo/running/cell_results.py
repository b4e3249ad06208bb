"""Make the results of cells: what all cells of a run share, a cell's settings, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError, NotFiniteError
from adapterzoo.machine import gpu
from adapterzoo.metrics.registry import lower_is_better_columns, metric_packages
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.results.identity import identity_hash
from adapterzoo.results.result import Result, Tuning
from adapterzoo.running.cell import Adapted

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


class CellResults:
    """Makes the results of the cells of one run."""

    def __init__(self, prepared: Prepared, identity: Mapping[str, Any]) -> None:
        self.prepared = prepared
        self.threads = 1
        """number of threads of each cell"""
        self.jobs = 1
        """number of cells that run at the same time"""
        self.describe_machine()
        self._common: dict[str, Any] = {
            "fingerprints": {"recipe": identity_hash(identity), **prepared.fingerprints},
            "recipe": dict(identity),
        }

    def describe_machine(self) -> None:
        """Note the package versions and the hardware of this machine, which may not be the one that made the plan."""
        from adapterzoo.machine.environment import environment

        self.machine: dict[str, Any] = environment(_packages(self.prepared))

    def use_this_gpu(self) -> None:
        """Note the GPU of this process, which may not be the one of the process that planned the run.

        Raises:
            AdapterzooError: this process finds no GPU.
        """
        self.machine |= {"device": gpu.name(), "gpu": gpu.description()}

    def packages(self) -> dict[str, str | None]:
        """Return the packages that scores depend on, with their versions."""
        return dict(self.machine["packages"])

    def make(self, cell: Cell, **values: Any) -> Result:
        """Return the result of a cell: its settings, what all cells of the run share, and the given values."""
        environment = {**self.machine, "threads": self.threads, "jobs": self.jobs}
        return Result(
            label=cell.label,
            seed=cell.seed,
            **cell.settings,
            steps=self.prepared.steps if isinstance(cell, MethodCell) else None,
            budget=cell.budget if isinstance(cell, MethodCell) else None,
            lower_is_better=lower_is_better_columns(self.prepared.recipe.evaluate.metrics),
            environment=environment,
            **{**self._common, **values},
        )

    def depends_on(self, cell: Cell) -> Mapping[str, Any]:
        """Return what training depends on beside the recipe; a checkpoint is used only if all of this is the same."""
        return {**cell.settings, "packages": self.machine["packages"]}


def _packages(prepared: Prepared) -> list[str]:
    """Return the packages, beside those of the core, whose versions say whether rows are comparable."""
    options = prepared.task.options(**prepared.recipe.task.options)
    of_quantizations = {package for cell in prepared.cells for package in quantizations()[cell.quantization].packages}
    return [
        *prepared.task.packages(options),
        *metric_packages(prepared.recipe.evaluate.metrics),
        *sorted(of_quantizations),
    ]


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Return metrics, none of which is NaN or infinite.

    Raises:
        NotFiniteError: one is.
    """
    for name, value in metrics.items():
        if not isfinite(value):
            raise NotFiniteError(f"{name} became {value}")
    return metrics


def known(base: Base, tuning: Tuning | AdapterzooError | None, adapted: Adapted | None) -> dict[str, Any]:
    """Return the fields of a result that are known before training, and therefore even if it fails."""
    return {
        "tuning": tuning if isinstance(tuning, dict) else None,
        "trainable_params": adapted.trainable if adapted else 0,
        "head_params": adapted.head_params if adapted else 0,
        "total_params": base.parameters + (adapted.added if adapted else 0),
    }
