"""Find what keeps several processes from training a cell together, before any weights are loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from adapterzoo.errors import Problem
from adapterzoo.methods.capabilities import capabilities
from adapterzoo.methods.registry import Registry
from adapterzoo.model.config import text_config
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.recipe.schema import Recipe, TrainSection
from adapterzoo.recipe.train import ZERO_STAGES
from adapterzoo.tasks.examples import Examples

PLACE = "train.devices"
HINT = "Set it to 1; the cells of a run still use all GPUs."
NEEDED = {"none": "ddp", "fsdp2": "fsdp2", **{name: name for name in ZERO_STAGES}}
"""value of ``train.sharding`` -> the capability that a method needs for it"""
SHARDING = "train.sharding"
INSTALL = "Run: pip install 'adapterzoo[deepspeed]'"
ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
"""optimizers of transformers that step parts of weights as they step whole ones"""


def devices_problems(
    recipe: Recipe, encoded: Examples, config: Any, cells: Sequence[Cell], zoo: Registry
) -> list[Problem]:
    """Return why several processes cannot train the cells of a recipe; an empty list if they can, or are not wanted.

    Args:
        recipe: the recipe.
        encoded: the rows.
        config: the model's configuration, as transformers loads it.
        cells: the cells.
        zoo: the methods.
    """
    devices, needed = recipe.train.devices, NEEDED[recipe.train.sharding]
    if devices == 1:
        return []
    if encoded.loss_unit is None:
        what = f"is {devices}, but this task's loss is no mean over the rows of a batch, which could be divided."
        return [Problem(PLACE, what, HINT)]
    if getattr(text_config(config), "output_router_logits", False):
        what = f"is {devices}, and the model's configuration asks for its router's loss (output_router_logits), which"
        return [Problem(PLACE, f"{what} is no mean over the rows of a batch.", HINT)]
    problems = _zero_problems(recipe.train) if recipe.train.sharding in ZERO_STAGES else []
    for name in dict.fromkeys(cell.method for cell in cells if isinstance(cell, MethodCell)):
        seen = capabilities(zoo, name)
        why = seen.get(needed)  # a method that nobody has tried may be tried
        if isinstance(why, str):
            hint = "Leave train.sharding out." if seen.get(NEEDED["none"]) is True else HINT
            problems.append(Problem(PLACE, f"is {devices}, and {name} was seen to fail with {needed}: {why}.", hint))
    return problems


def _zero_problems(train: TrainSection) -> list[Problem]:
    """Return why DeepSpeed cannot divide a training."""
    if find_spec("deepspeed") is None:
        return [Problem(SHARDING, f"is {train.sharding}, which needs DeepSpeed, and it is not installed.", INSTALL)]
    if train.optimizer not in ELEMENTWISE:
        what = f"is {train.optimizer}, and {train.sharding} gives an optimizer parts of weights, which it may not treat"
        return [Problem("train.optimizer", f"{what} as it treats whole ones.", f"Take {', '.join(ELEMENTWISE)}.")]
    if why := _import_error():
        return [Problem(SHARDING, f"is {train.sharding}, which needs DeepSpeed, and it cannot be imported: {why}.")]
    return []


def _import_error() -> str:
    """Return why DeepSpeed cannot be imported; an empty text if it can.

    It is tried in another process, because importing it changes torch.
    """
    # Set the path first: otherwise Python would import modules from the working directory.
    code = f"import sys; sys.path[:] = {sys.path}; from adapterzoo.training import zero; zero.import_deepspeed()"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
    return said[-1].rstrip(".") if tried.returncode else ""
