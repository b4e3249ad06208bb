"""Find out where the parts of a model will be kept, and what keeps it from being spread, before weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapterzoo.errors import Problem, UserError
from adapterzoo.methods.capabilities import capabilities
from adapterzoo.methods.registry import Registry
from adapterzoo.model.placing import CPU, Places, choose_places, kept_bytes, offloaded_places
from adapterzoo.prepare.estimate import BYTES_PER_PARAMETER
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.quantizations.contract import NONE
from adapterzoo.recipe.schema import Recipe
from adapterzoo.tasks.examples import ModelForm

PLACE = "model.device_map"
CAPABILITY = "offload"


def placed(
    recipe: Recipe, location: str, form: ModelForm, skeleton: Any, cells: Sequence[Cell], zoo: Registry
) -> dict[int | str, int] | None:
    """Return how many bytes of the base model each place keeps; None if all of it is on one device.

    Args:
        recipe: the recipe.
        location: folder or hub id of the model.
        form: the form in which the task needs the model.
        skeleton: the model without weights.
        cells: the cells of the run.
        zoo: the installed methods.

    Raises:
        UserError: the model cannot be spread as the recipe wants it, or a method cannot train it then.
    """
    model = recipe.model
    if model.device_map is None:
        return None
    if problems := [*_setting_problems(recipe), *_quantization_problems(recipe, cells)]:
        raise UserError(*problems)
    if cells and all(cell.quantization != NONE for cell in cells):
        return None  # transformers places it, on GPUs alone, when it knows the sizes of quantized weights
    places = choose_places(model, location, skeleton.config, form)
    if problems := _method_problems(places, cells, zoo):
        raise UserError(*problems)
    return kept_bytes(skeleton, places, BYTES_PER_PARAMETER[model.dtype])


def _setting_problems(recipe: Recipe) -> list[Problem]:
    import torch

    problems = []
    if recipe.train.devices > 1:
        what = f"is {recipe.model.device_map}, which is for one process, and train.devices is {recipe.train.devices}."
        problems.append(Problem(PLACE, what, "Leave one of the two out."))
    have = torch.cuda.device_count()
    if absent := [place for place in recipe.model.max_memory or () if place != CPU and int(place) >= have]:
        what = f"names GPU {absent[0]}, and this machine has {'no GPU' if not have else f'{have}, numbered from 0'}."
        problems.append(Problem("model.max_memory", what))
    return problems


def _quantization_problems(recipe: Recipe, cells: Sequence[Cell]) -> list[Problem]:
    import torch

    if torch.cuda.is_available():  # transformers refuses it if the GPUs are too small
        return []
    labels: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.quantization != NONE:
            asks = "model.quantization" if cell.quantization == recipe.model.quantization else cell.label
            labels.setdefault(cell.quantization, {})[asks] = None
    what = "spreads weights over memory and disk here. They are read from there as they are, and not quantized as {}."
    hint = "Leave out {}, or model.device_map."
    return [Problem(PLACE, what.format(name), hint.format(", ".join(own))) for name, own in labels.items()]


def _method_problems(places: Places, cells: Sequence[Cell], zoo: Registry) -> list[Problem]:
    """Return a problem for each method that cannot train, or was seen to fail, with offloaded weights."""
    if not offloaded_places(places):
        return []
    problems = []
    methods = [cell for cell in cells if isinstance(cell, MethodCell)]
    for label in dict.fromkeys(cell.label for cell in methods if cell.options.get("target_parameters")):
        what = f"leaves weights outside of memory, where {label} cannot adapt fused experts (target_parameters)."
        problems.append(Problem(PLACE, what, "Leave target_parameters out, or allow more in model.max_memory."))
    for name in dict.fromkeys(cell.method for cell in methods):
        why = capabilities(zoo, name).get(CAPABILITY)  # a method that nobody has tried may be tried
        if isinstance(why, str):
            what = f"leaves weights outside of memory, and {name} was seen to fail then: {why}."
            problems.append(Problem(PLACE, what, "Leave the method out, or allow more in model.max_memory."))
    return problems
