"""Look for options that change nothing, and for layers and sizes that are not those which the options name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.measure import logits
from adapterzoo.conformance.models import ARCHITECTURES, CAUSAL, TASK_ARCHITECTURES, tiny_base
from adapterzoo.conformance.options import TARGETS, changed, other_sizes, other_values
from adapterzoo.conformance.trial import Trial
from adapterzoo.errors import Problem
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.results.result import plain_findings

if TYPE_CHECKING:
    import torch

    from adapterzoo.model.base import Base
    from adapterzoo.recipe.schema import TrainSection

# If training changes nearly all numbers of the usual adapter, it should change most of those of a larger one.
NEARLY_ALL, MOST = 0.99, 0.75
LARGER = 4
"""how many times as large the larger adapter is"""


def missing_effects(
    trial: Trial, base: Base, settings: TrainSection, problems: Callable[[Any], list[Problem]]
) -> Iterator[str]:
    """Yield a sentence for each option that does not do what its name says.

    Args:
        trial: the method with its default options.
        base: the base model.
        settings: a short training, which has to give the same adapter each time, bit for bit.
        problems: tells why the method does not accept options.
    """
    here = _Trainer(trial, base, settings, problems)
    usual = here.train()
    if usual is None:  # another property tells why
        return
    yield from _idle_options(here, usual)
    if trial.method.size_option:
        yield from _untrained_numbers(here, usual, trial.method.size_option)
    if "target_modules" in type(trial.options).model_fields:
        yield from _wrong_targets(here)


def _idle_options(here: _Trainer, usual: _Trained) -> Iterator[str]:
    """Yield a sentence for each option whose other value trains the same adapter."""
    options = here.trial.options
    for name, value in other_values(options):
        other = here.train(usual, **{name: value})
        if other == usual and name not in other.adjusted and not _matters_otherwise(here, name, value):
            yield f"{name} {value} instead of {getattr(options, name)} changes nothing in the trained adapter"


def _untrained_numbers(here: _Trainer, usual: _Trained, size: str) -> Iterator[str]:
    """Yield a sentence if training leaves many numbers of a larger adapter as they are."""
    if usual.changed <= NEARLY_ALL:
        return
    value = LARGER * getattr(here.trial.options, size)
    larger = here.train(**{size: value})
    if larger is not None and larger.changed < MOST:
        yield f"with {size} {value}, training changes only {larger.changed:.0%} of the numbers that it should train"


def _wrong_targets(here: _Trainer) -> Iterator[str]:
    """Yield what is wrong with the layers that are adapted for two names, for one of them, and for a pattern."""
    first, second = TARGETS
    pattern = f".*\\.{second}"
    both = here.train(target_modules=[first, second])
    if both is not None and both in [here.train(both, target_modules=[name]) for name in TARGETS]:
        yield f"with {first} and {second} as target_modules, it trains the same as with one of them"
    other, matched = here.train(target_modules=[second]), here.train(target_modules=pattern)
    if other is not None and matched is not None and matched != other:
        yield f"with the pattern '{pattern}' as target_modules, it trains something else than with [{second}]"


@dataclass(eq=False)
class _Trained:
    """An adapter after a short training. Two are equal if all their numbers are."""

    tensors: dict[str, torch.Tensor]
    logits: torch.Tensor
    changed: float
    """share of the trained numbers that training changed"""
    adjusted: set[str]
    """options that the method's findings say it adjusted"""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Trained)
            and self.tensors.keys() == other.tensors.keys()
            and all(tensor.equal(other.tensors[name]) for name, tensor in self.tensors.items())
            and self.logits.equal(other.logits)
        )

    __hash__ = None  # type: ignore[assignment]


class _UnlikeError(Exception):
    """An adapter has other tensors than the one that it is compared with."""


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@dataclass
class _Trainer:
    """Trains a method shortly on one base, with some options changed."""

    trial: Trial
    base: Base
    settings: TrainSection
    problems: Callable[[Any], list[Problem]]
    trained: dict[str, _Trained | None] = field(default_factory=dict)

    def train(self, like: _Trained | None = None, /, **values: Any) -> _Trained | None:
        """Return the trained adapter; None if the method does not accept these options, or cannot train with them.

        Args:
            like: an adapter to compare with. If the new one has other tensors, it cannot be equal: return None then,
                without training it.
            values: the options that are changed, and their values.
        """
        options = changed(self.trial.options, **values)
        if options is None or self.problems(options):
            return None
        key = options.model_dump_json()
        if key not in self.trained:
            try:
                self.trained[key] = self._train(options, like)
            except _UnlikeError:
                return None
        return self.trained[key]

    @cached_property
    def on_another_architecture(self) -> _Trainer:
        """A trainer of the same method on the last architecture of the kit."""
        task_type = self.trial.context.task_type
        architecture = (ARCHITECTURES if task_type == CAUSAL else TASK_ARCHITECTURES[task_type])[-1]
        base = tiny_base(architecture, self.trial.context.quantization, task_type=task_type)
        trial = self.trial.other("elsewhere", architecture=architecture)
        return _Trainer(trial, base, self.settings, lambda options: [])

    def _train(self, options: Any, like: _Trained | None) -> _Trained | None:
        trial = self.trial.other("effects", options=options)
        try:
            with self.base.borrow() as model:
                wrapped = trial.wrap(model)
                before = {name: tensor.detach().clone() for name, tensor in trained_parameters(wrapped).items()}
                if like is not None and _shapes(before) != _shapes(like.tensors):
                    raise _UnlikeError
                tensors, _ = trial.train(wrapped, self.settings)
                different = sum(int((before[name] != tensor).sum()) for name, tensor in tensors.items())
                whole = sum(tensor.numel() for tensor in tensors.values())
                adjusted = {*plain_findings(trial.method.findings(wrapped)).get("adjusted", {})}
                return _Trained(tensors, logits(wrapped, trial.rows), different / max(1, whole), adjusted)
        except _UnlikeError:
            raise
        except (Exception, SystemExit):  # whether it may raise this is the question of other properties
            return None


def _matters_otherwise(here: _Trainer, name: str, value: Any) -> bool:
    """Tell whether an option changes something beside other values of other options, or on another architecture."""
    trial = here.trial
    others = {other: another for other, another in other_values(trial.options) if other != name}
    if _matters(here, name, value, others):
        return True
    if _matters(here.on_another_architecture, name, value, {}):
        return True
    alone = [{other: another} for other, another in others.items()]
    if (size := trial.method.size_option) and size != name:
        alone += [{size: getattr(options, size)} for options in other_sizes(trial.options, size)]
    return any(_matters(here, name, value, values) for values in alone)


def _matters(trainer: _Trainer, name: str, value: Any, others: dict[str, Any]) -> bool:
    """Tell whether an option changes something beside some values of other options."""
    first, second = trainer.train(**others), trainer.train(**others, **{name: value})
    return first is not None and second is not None and first != second
