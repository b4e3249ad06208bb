"""A prepared run: everything that is known about it before the model's weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.methods.contract import Context
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.reach import Reach
from adapterzoo.recipe.schema import Recipe
from adapterzoo.tasks.batches import shuffled_batches
from adapterzoo.tasks.contract import Task
from adapterzoo.tasks.examples import Examples
from adapterzoo.tasks.registry import tasks

if TYPE_CHECKING:
    from adapterzoo.evaluation.forgetting import General


@dataclass(frozen=True)
class Prepared:
    """A run that was prepared; all its cells share it."""

    recipe: Recipe
    cells: list[Cell]
    location: str
    """folder or hub id from which transformers loads the model"""
    encoded: Examples
    sealed_rows: bytes
    """copy of the training rows, for methods whose adapter starts from the data"""
    steps: int
    """number of optimizer steps of each training"""
    trainable: dict[str, int]
    """label -> number of parameters that its method trains; labels in ``unknown_sizes`` are left out"""
    unknown_sizes: dict[str, str]
    """label -> why the number of parameters that its method trains is not known before the weights are loaded"""
    base_parameters: int
    """number of parameters of the base model"""
    linear_parameters: int
    """number of parameters in the base model's linear layers, which quantization stores in fewer bits"""
    reach: list[Reach]
    """how much of the base model the targets of the cells reach"""
    weights: str | None
    """hash of the base model's weights; None if it is not known"""
    fingerprints: dict[str, str | None]
    """hashes of the data, of each split, and of the base model's weights"""
    general: General | None
    """text on which forgetting is measured; None if the recipe has none"""
    longest_read: int
    """largest number of tokens that the model reads in one sequence, with an answer"""
    kept: dict[int | str, int] | None = None
    """place -> bytes of the base model that it keeps, if ``model.device_map`` spreads it; None for one device"""

    @property
    def task(self) -> Task[Any]:
        """Return the task of the recipe."""
        return tasks()[self.recipe.task.name]

    @property
    def method_cells(self) -> list[MethodCell]:
        """Return the cells that are trained."""
        return [cell for cell in self.cells if isinstance(cell, MethodCell)]

    def context(self, cell: Cell) -> Context:
        """Return what a cell's method may know about the run."""
        train = self.recipe.train
        return Context(
            quantization=cell.quantization,
            task_type=self.task.task_type,
            total_steps=self.steps,
            gradient_accumulation=train.gradient_accumulation,
            seed=cell.seed,
            longest_row=self.longest_read,
            summed_losses=train.gradient_accumulation if self.encoded.trainer_computes_loss else 1,
            batches=shuffled_batches(self.sealed_rows, train.batch_size, cell.seed),
        )
