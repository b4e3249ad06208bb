"""Fit a run to a base model that comes quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from adapterzoo.errors import Problem, UserError
from adapterzoo.methods.registry import Registry
from adapterzoo.methods.trainable import verdict, why_not_trainable
from adapterzoo.model.quantization import saved_quantization
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.quantizations.contract import NONE, Quantization
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.recipe.schema import Recipe
from adapterzoo.tasks.registry import tasks


def fit_to_checkpoint(
    recipe: Recipe, cells: list[Cell], config: Any, zoo: Registry, say: Callable[[str], None]
) -> tuple[Recipe, list[Cell]]:
    """Return the recipe and the cells with the quantization that the base model comes with, if it does.

    Args:
        recipe: the recipe.
        cells: the planned cells.
        config: the model's configuration, as transformers loads it.
        zoo: the installed methods.
        say: is called with messages about what was never tried.

    Raises:
        UserError: the model comes with a quantization that cannot be used here, that is not the recipe's, or that
            methods of the recipe cannot train on; or it does not come with the quantization of the recipe.
    """
    saved, own = saved_quantization(config), recipe.model.quantization
    if saved is None:
        if quantizations()[own].only_checkpoints:
            what = f"is not quantized with {own}, and adapterzoo cannot do that."
            raise UserError.at(f"model {recipe.model.name}", what, "Set model.quantization to none, int8 or nf4.")
        return recipe, cells
    where = f"model {recipe.model.name}"
    comes_with = quantizations().of_checkpoint(saved)
    if comes_with is None:
        method = str(saved.get("quant_method"))
        what = f"comes quantized by '{method}', which no installed quantization recognises."
        raise UserError.at(where, what, "Choose a model with ordinary weights; adapterzoo can quantize it.")
    name = comes_with.name
    if problems := [*_problems(recipe, cells, comes_with, zoo, where)]:
        raise UserError(*problems)
    for method in dict.fromkeys(cell.method for cell in cells if isinstance(cell, MethodCell)):
        if verdict(zoo, method, name) is None:
            say(f"{method} was never tried on {name}: compare its losses with those of another method")
    say(f"{recipe.model.name} comes quantized: {name}")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"quantization": name})})
    return recipe, [replace(cell, quantization=name) for cell in cells]


def _problems(
    recipe: Recipe, cells: list[Cell], comes_with: Quantization, zoo: Registry, where: str
) -> Iterator[Problem]:
    """Yield why a run is not possible on a model that comes with a quantization."""
    name, own = comes_with.name, recipe.model.quantization
    if reason := comes_with.why_not_here():
        yield Problem(where, f"comes quantized ({name}), which {reason.what}", reason.hint)
    if own not in (NONE, name):
        hint = "Leave model.quantization out, or choose a model with ordinary weights."
        yield Problem(where, f"comes quantized ({name}), and cannot be quantized again ({own}).", hint)
    task = tasks()[recipe.task.name]
    if task.new_head and comes_with.same_layers != NONE:
        what = f"comes quantized ({name}), and would quantize the new head of the task {task.name} too."
        yield Problem(where, what, "Choose a model with ordinary weights; adapterzoo can quantize it.")
    for cell in {cell.label: cell for cell in cells if isinstance(cell, MethodCell)}.values():
        if (needed := zoo[cell.method].requires_quantization) not in (None, name):
            what = f"{cell.method} needs the quantization {needed}, and the base model comes quantized ({name})."
            yield Problem(cell.label, what, "Leave the method out.")
        elif comes_with.only_checkpoints and verdict(zoo, cell.method, name) is None:
            continue  # Nobody could try it: the cell will show it.
        elif found := why_not_trainable(zoo, cell.method, name, task.task_type):
            yield Problem(cell.label, f"{cell.method} {found[0]}", found[1])
