"""Train a method on a base model whose layers are on the disk, and compare that with one that is in memory."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from adapterzoo.conformance.differences import TOLERANCE, tensors_problem
from adapterzoo.conformance.measure import logits
from adapterzoo.conformance.models import form_for, model_folder, tiny_skeleton
from adapterzoo.conformance.trial import Trial
from adapterzoo.conformance.variants import few
from adapterzoo.quantizations.contract import NONE

if TYPE_CHECKING:
    import torch

    from adapterzoo.model.base import Base
    from adapterzoo.recipe.schema import TrainSection

QUANTIZED = "its base is always quantized, and such weights cannot be read from the disk"
Tensors = dict[str, "torch.Tensor"]


def offload_problem(trial: Trial, base: Base, settings: TrainSection) -> str | None:
    """Return what is different if the layers of the base model are on the disk; None if it is the same to the bit.

    Args:
        trial: the method with its default options.
        base: the base model, in memory.
        settings: the usual settings.
    """
    if base.quantization != NONE:
        return QUANTIZED
    offloaded, settings = layers_on_disk(trial.architecture, trial.context.task_type), few(settings)
    usual, _ = _trained(trial.other("in-memory"), base, settings)
    other = trial.other("on-disk")
    found, answers = _trained(other, offloaded, settings)
    if kept := _kept(trial.other("kept"), offloaded):
        return f"it keeps {kept} weights of the base model in memory"
    if problem := tensors_problem(usual, found, "with layers on the disk", "see what reads weights of the base model"):
        return problem
    with offloaded.borrow() as model:
        gap = (logits(other.load(model), trial.rows) - answers).abs().max().item()
    allowed = TOLERANCE * answers.std().item()
    return None if gap <= allowed else f"loaded with layers on the disk, its logits differ by {gap:.1g}"


@cache
def layers_on_disk(architecture: str, task_type: str) -> Base:
    """Return the model of an architecture with its layers on the disk, and all else in memory."""
    from adapterzoo.model import base, placing
    from adapterzoo.recipe.schema import ModelSection

    folder = str(model_folder(architecture))
    places = placing.layers_on_disk(tiny_skeleton(architecture, task_type).get_model())
    section = ModelSection(name=folder, dtype="float32", device_map="auto")
    return base.load(section, folder, NONE, 64, form_for(task_type), places=places)


def _kept(trial: Trial, base: Base) -> int:
    """Return how many weights of the base model stay in memory when a method has wrapped it."""
    from adapterzoo.model.offloaded import in_use

    with base.borrow() as model:
        before = in_use()
        wrapped = trial.wrap(model)
        kept = in_use() - before
        del wrapped
    return kept


def _trained(trial: Trial, base: Base, settings: TrainSection) -> tuple[Tensors, torch.Tensor]:
    """Wrap, train and save; return the trained tensors, and the logits."""
    with base.borrow() as model:
        wrapped = trial.wrap(model)
        tensors, _ = trial.train(wrapped, settings)
        answers = logits(wrapped, trial.rows)
        trial.save(wrapped)
    return tensors, answers
