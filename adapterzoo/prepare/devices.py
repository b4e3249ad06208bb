"""Find what keeps several processes from training a cell together, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from adapterzoo.errors import Problem
from adapterzoo.methods.capabilities import capabilities
from adapterzoo.methods.registry import Registry
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.recipe.schema import Recipe
from adapterzoo.tasks.examples import Examples

PLACE = "train.devices"
HINT = "Set it to 1; the cells of a run still use all GPUs."
NEEDED = {"none": "ddp", "fsdp2": "fsdp2"}
"""value of ``train.sharding`` -> the capability that a method needs for it"""


def devices_problems(recipe: Recipe, encoded: Examples, cells: Sequence[Cell], zoo: Registry) -> list[Problem]:
    """Return why several processes cannot train the cells of a recipe; an empty list if they can, or are not wanted."""
    devices, needed = recipe.train.devices, NEEDED[recipe.train.sharding]
    if devices == 1:
        return []
    if encoded.loss_unit is None:
        what = f"is {devices}, but this task's loss is no mean over the rows of a batch, which could be divided."
        return [Problem(PLACE, what, HINT)]
    problems = []
    for name in dict.fromkeys(cell.method for cell in cells if isinstance(cell, MethodCell)):
        seen = capabilities(zoo, name)
        why = seen.get(needed)  # a method that nobody has tried may be tried
        if isinstance(why, str):
            hint = "Leave train.sharding out." if seen.get(NEEDED["none"]) is True else HINT
            problems.append(Problem(PLACE, f"is {devices}, and {name} was seen to fail with {needed}: {why}.", hint))
    return problems
