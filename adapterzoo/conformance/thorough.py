"""Use a method with other settings of the training, and on a larger model: what the usual check has no time for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.conformance.declining import problems_with
from adapterzoo.conformance.measure import logits
from adapterzoo.conformance.models import BLOCKS_OF_LARGE, LARGE, tiny_base
from adapterzoo.conformance.trial import MIN_LOSS_FALL, SAVED_AT, Trial
from adapterzoo.conformance.variants import (
    FEW_STEPS,
    Variant,
    few,
    recorded,
    train_and_save,
    use,
    variant_problem,
)
from adapterzoo.conformance.watch import save_only_at
from adapterzoo.errors import AdapterzooError, NotFiniteError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.recipe.schema import TrainSection

MANY_STEPS = 120
EARLY_STEPS = 4
EARLY_TOLERANCE = 1e-3
"""share of the effect of a few steps by which other settings may change it"""
MAX_ROUNDING = 5
"""how many times as much as another order of rows, which changes only the rounding, other settings may change"""
PASSES = 2
"""number of batches over which gradients are accumulated"""


def long_training(trial: Trial, base: Base, settings: TrainSection) -> Variant:
    """Train for longer than usual, at the method's own learning rate."""
    settings = settings.model_copy(update={"steps": MANY_STEPS, "eval_steps": 0})
    rate = trial.method.learning_rate
    variant = Variant(f"{MANY_STEPS} steps at its own learning rate, {rate:g}", min_fall=MIN_LOSS_FALL)
    other = trial.other("long", total_steps=MANY_STEPS)
    with recorded(variant), base.borrow() as model:
        train_and_save(other, model, settings, variant, rate=rate)
    return variant


def larger_model(trial: Trial, settings: TrainSection) -> Iterator[Variant]:
    """Wrap, train, save, load and merge on a model with more blocks and wider layers, unless the method declines it."""
    other = trial.other("larger", architecture=LARGE, total_steps=FEW_STEPS)
    if problems_with(trial.method, LARGE, other.context, trial.options):
        return
    variant = Variant(f"a model of {BLOCKS_OF_LARGE} blocks")
    base = tiny_base(LARGE, "none")
    with recorded(variant):
        use(other, base, few(settings), variant)
        with base.borrow() as model:
            variant.untrained_blocks = _untrained_blocks(other.wrap(model))
    yield variant


def _untrained_blocks(model: nn.Module) -> list[int]:
    """Return the numbers of the blocks in which nothing is trained; none if nothing is trained in the first either."""
    # Blocks may share a parameter.
    names = [name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.requires_grad]
    blocks = {int(number) for name in names for number in re.findall(r"\blayers\.(\d+)\.", name)}
    return sorted(set(range(BLOCKS_OF_LARGE)) - blocks) if 0 in blocks else []


def other_settings(trial: Trial, base: Base, settings: TrainSection, usual: torch.Tensor) -> Iterator[Variant]:
    """Train with accumulated gradients, and with gradient checkpointing, which both should change nothing.

    Args:
        trial: the method with its default options.
        base: the base model.
        settings: the usual settings.
        usual: the logits after a training with the usual settings.
    """
    for variant in (accumulating(trial, base, settings, usual), checkpointing(trial, base, settings, usual)):
        declined = isinstance(variant.error, AdapterzooError) and not isinstance(variant.error, NotFiniteError)
        if not declined or variant.first:  # otherwise the method says to the user that it cannot train like this
            yield variant


def accumulating(trial: Trial, base: Base, settings: TrainSection, usual: torch.Tensor) -> Variant:
    """Train with gradients that are accumulated over several batches; see :func:`other_settings`."""
    small = {"batch_size": settings.batch_size // PASSES, "gradient_accumulation": PASSES}
    losses = PASSES if trial.rows.trainer_computes_loss else 1
    other = trial.other("accumulated", gradient_accumulation=PASSES, summed_losses=losses)
    # A model that answers questions computes its loss over padding too, so its rows cannot be in other batches.
    compared = None if trial.context.task_type == "QUESTION_ANS" else usual
    return _with_settings(Variant("accumulated gradients"), trial, other, base, settings, small, compared)


def checkpointing(trial: Trial, base: Base, settings: TrainSection, usual: torch.Tensor) -> Variant:
    """Train with gradient checkpointing; see :func:`other_settings`."""
    other, changes = trial.other("checkpointing"), {"gradient_checkpointing": True}
    return _with_settings(Variant("gradient checkpointing"), trial, other, base, settings, changes, usual)


def _with_settings(
    variant: Variant,
    usual: Trial,
    other: Trial,
    base: Base,
    settings: TrainSection,
    changes: dict[str, Any],
    expected: torch.Tensor | None,
) -> Variant:
    """Train with other settings, and record in a variant how the logits differ from the expected ones."""
    if expected is not None:
        variant.logits["usual"] = expected
    with recorded(variant):
        _train_and_resume(other, base, settings.model_copy(update={"eval_steps": 0, **changes}), variant)
    differs = variant.error is None and variant_problem(usual.context.quantization, variant)
    if differs and expected is not None:
        with recorded(variant):
            if not _differs_early(usual, other, base, settings, changes):
                del variant.logits["usual"]
    return variant


def _differs_early(usual: Trial, other: Trial, base: Base, settings: TrainSection, changes: dict[str, Any]) -> bool:
    """Tell whether other settings give another adapter after a few steps, before rounding has been amplified much.

    How much rounding is amplified, and what the random numbers of a method that draws some change, is seen from a
    training whose batches have the same rows in another order.
    """
    first = _gaps_after(1, usual, other, base, settings, changes)
    last = _gaps_after(EARLY_STEPS, usual, other, base, settings, changes)
    if last.settings <= max(EARLY_TOLERANCE * last.effect, MAX_ROUNDING * last.order):
        return False
    grown = first.settings * last.order / first.order if first.order else 0.0
    return not (first.settings <= EARLY_TOLERANCE * first.effect and last.settings <= MAX_ROUNDING * grown)


class _Gaps(NamedTuple):
    """The largest differences of the logits after a few steps."""

    effect: float
    """by the training"""
    settings: float
    """by other settings"""
    order: float
    """by rows of a batch in another order"""


def _gaps_after(
    steps: int, usual: Trial, other: Trial, base: Base, settings: TrainSection, changes: dict[str, Any]
) -> _Gaps:
    settings = settings.model_copy(update={"steps": steps, "eval_steps": 0})
    reordered = usual.other("reordered", rows=replace(usual.rows, train=usual.rows.train[::-1]))
    found: list[torch.Tensor] = []
    for trial, given in ((usual, settings), (other, settings.model_copy(update=changes)), (reordered, settings)):
        again = trial.other(f"early-{steps}-{len(found)}", total_steps=steps)
        with base.borrow() as model:
            wrapped = again.wrap(model)
            before = logits(wrapped, usual.rows)
            again.train(wrapped, given)
            found.append(logits(wrapped, usual.rows))
    return _Gaps(*((found[0] - tensor).abs().max().item() for tensor in (before, found[1], found[2])))


def _train_and_resume(trial: Trial, base: Base, settings: TrainSection, variant: Variant) -> None:
    saving = settings.model_copy(update={"save_steps": SAVED_AT if trial.method.resumes else 0})
    with base.borrow() as model:
        train_and_save(trial, model, saving, variant, [save_only_at(SAVED_AT)])
    with base.borrow() as model:
        variant.logits["loaded"] = logits(trial.load(model), trial.rows)
    if trial.method.resumes:
        with base.borrow() as model:
            variant.resumed, _ = trial.train(trial.wrap(model), saving, "first")
