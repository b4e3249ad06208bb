"""Use a method with other options, seeds and settings of the training than the defaults of the check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.differences import describe_error, merge_tolerance, tensors_problem
from adapterzoo.conformance.host import ElsewhereError
from adapterzoo.conformance.measure import logits, loss
from adapterzoo.conformance.models import CAUSAL
from adapterzoo.conformance.options import changed, other_values
from adapterzoo.conformance.trial import Trial, time_limit
from adapterzoo.errors import Problem

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.recipe.schema import TrainSection

SEED = 3
# The four rows are two batches. The number of steps is odd, so training ends between the two.
FEW_STEPS, FEW_ROWS = 5, 2
VARIANT_SECONDS = 300
# Accept that other settings that should change nothing, such as checkpointing, change the effect by this share.
SETTINGS_TOLERANCE = 0.05
# Accept this difference of logits that should be equal, as a share of their standard deviation.
VARIANT_TOLERANCE = 1e-3
Problems = Callable[[Any], list[Problem]]


@dataclass
class Variant:
    """The observations of a method with other options or settings."""

    what: str
    """what is different, such as ``r 16, alpha 32, seed 3``"""
    error: BaseException | None = None
    logits: dict[str, torch.Tensor] = field(default_factory=dict)
    """logits by when they were measured: ``base``, ``trained``, ``loaded``, ``merged``, ``elsewhere``,
    and with the settings of the check ``usual``"""
    broken_rules: dict[str, str] = field(default_factory=dict)
    """rule of the comparison that it broke and does not declare -> what it did"""
    untrained_blocks: list[int] = field(default_factory=list)
    """numbers of the decoder blocks in which nothing is trained, although something is in the first"""
    losses: list[float] = field(default_factory=list)
    """losses on the training rows before and after training"""
    min_fall: float = 0.0
    """share by which training should lower the loss"""
    first: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors"""
    resumed: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors of a training that was resumed from a checkpoint of the first"""


def observe_variants(trial: Trial, base: Base, settings: TrainSection, problems: Problems) -> list[Variant]:
    """Use a method with another value of each option, and another seed.

    All options are changed together; those that are not accepted together are changed one by one.

    Args:
        trial: the method with its default options.
        base: the base model.
        settings: a short training.
        problems: tells why the method does not accept options.
    """
    together: dict[str, Any] = {}
    alone: list[dict[str, Any]] = []
    for name, value in other_values(trial.options):
        if _accepted(trial, problems, {**together, name: value}):
            together[name] = value
        elif _accepted(trial, problems, {name: value}):
            alone.append({name: value})
    quantization = trial.context.quantization
    variants = [_with_options(trial, base, settings, together, 0)]
    if len(together) > 1 and variant_problem(quantization, variants[0]):
        # Blame one option, and not values that do not go together.
        alone += [{name: value} for name, value in together.items()]
        variants = []
    for number, values in enumerate(alone, start=1):
        variant = _with_options(trial, base, settings, values, number)
        if not isinstance(variant.error, (ValueError, NotImplementedError)):  # otherwise it refuses this value
            variants.append(variant)
    return variants


def variant_problem(quantization: str, variant: Variant) -> str | None:
    """Return what is wrong with a method with other options or settings; None if nothing is.

    Args:
        quantization: the quantization of the base.
        variant: the observations.
    """
    if variant.error is not None:
        text = str(variant.error) if isinstance(variant.error, ElsewhereError) else describe_error(variant.error)
        return f"with {variant.what}: {text}"
    logits = variant.logits
    allowed = VARIANT_TOLERANCE * logits["base"].std().item()
    effect = (logits["trained"] - logits["base"]).abs().max().item()
    for other, reference, most, what in (
        ("loaded", "trained", allowed, "before saving and after loading"),
        ("elsewhere", "trained", allowed, "here and in another process"),
        ("in plain PEFT", "trained", allowed, "here and as plain PEFT loads them"),
        ("merged", "trained", merge_tolerance(quantization) * effect + allowed, "before and after merging"),
        ("merged elsewhere", "merged", allowed, "of the merged model here and loaded by transformers"),
        ("usual", "trained", SETTINGS_TOLERANCE * effect, "and those of the usual settings"),
    ):
        if other in logits:
            gap = (logits[other] - logits[reference]).abs().max().item()
            if not gap <= most:
                return f"with {variant.what}, the logits {what} differ by {gap:.2g} (allowed: {most:.2g})"
    if variant.broken_rules:
        return f"with {variant.what}, it {next(iter(variant.broken_rules.values()))}"
    if variant.untrained_blocks:
        return f"with {variant.what}, nothing is trained in the blocks {', '.join(map(str, variant.untrained_blocks))}"
    first, last = variant.losses
    if not last < first * (1 - variant.min_fall):
        few = f", less than {variant.min_fall:.1%}" if last < first else ""
        return f"with {variant.what}, training does not lower the loss: it goes from {first:.6f} to {last:.6f}{few}"
    when = f"with {variant.what}, after resuming"
    return (
        tensors_problem(variant.first, variant.resumed, when, "see what depends on the step")
        if variant.resumed
        else None
    )


@contextmanager
def recorded(variant: Variant) -> Iterator[None]:
    """Record an error of a block in a variant, or that it takes too long."""
    try:
        with time_limit(variant.what, VARIANT_SECONDS):
            yield
    except (Exception, SystemExit) as error:  # the method under test may raise anything
        variant.error = error


def _accepted(trial: Trial, problems: Problems, values: dict[str, Any]) -> bool:
    options = changed(trial.options, **values)
    return options is not None and not problems(options)


def few(settings: TrainSection) -> TrainSection:
    """Return the settings of a short training. Its falling rate shows whether a method follows the schedule."""
    return settings.model_copy(update={"steps": FEW_STEPS, "batch_size": FEW_ROWS, "scheduler": "linear"})


def _with_options(trial: Trial, base: Base, settings: TrainSection, values: dict[str, Any], number: int) -> Variant:
    """Wrap, train, save, load and merge with some options, and with another seed."""
    folder = f"variant-{number}-{'-'.join(values)}"[:100]
    other = trial.other(folder, options=changed(trial.options, **values), seed=SEED)
    variant = Variant(", ".join([f"{name} {value}" for name, value in values.items()] + [f"seed {SEED}"]))
    with recorded(variant):
        use(other, base, settings, variant)
    return variant


def use(trial: Trial, base: Base, settings: TrainSection, variant: Variant) -> None:
    """Wrap, train, save, merge and load an adapter, here and in another process, and record it in a variant."""
    causal = trial.context.task_type == CAUSAL
    with base.borrow() as model:
        wrapped = train_and_save(trial, model, settings, variant)
        if trial.context.quantization in trial.method.mergeable_into:
            merged: Any = trial.method.merge(wrapped)
            variant.logits["merged"] = logits(merged, trial.rows)
            if causal and trial.context.quantization == "none":
                merged.save_pretrained(str(trial.merged))
    if trial.context.quantization in trial.method.mergeable_into:
        base.invalidate()
    with base.borrow() as model:
        variant.logits["loaded"] = logits(trial.load(model), trial.rows)
    variant.logits.update(trial.elsewhere() or {})


def train_and_save(
    trial: Trial,
    model: nn.Module,
    settings: TrainSection,
    variant: Variant,
    watchers: Sequence[Any] = (),
    rate: float | None = None,
) -> nn.Module:
    """Wrap, train, measure and save; return the wrapped model. The checkpoints are in the folder ``first``."""
    variant.logits["base"] = logits(model, trial.rows)
    wrapped = trial.wrap(model)
    variant.losses.append(loss(wrapped, trial.rows))
    variant.first, _ = trial.train(wrapped, settings, "first", watchers, rate=rate)
    variant.broken_rules = trial.fair_play.record()["broken_rules"]
    variant.losses.append(loss(wrapped, trial.rows))
    variant.logits["trained"] = logits(wrapped, trial.rows)
    trial.save(wrapped)
    return wrapped
