"""The record of what a method does on one tiny base; ``observe.py`` writes it, and the properties judge it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.trial import time_limit
from adapterzoo.conformance.variants import Variant
from adapterzoo.errors import Problem
from adapterzoo.quantizations.registry import quantizations

if TYPE_CHECKING:
    import torch


@dataclass
class Observation:
    """The observations of one method on one base model. A field keeps its default if its stage was not reached."""

    architecture: str
    quantization: str
    declined: list[Problem] = field(default_factory=list)
    """the method's own reasons why it cannot work on this architecture"""
    errors: dict[str, BaseException] = field(default_factory=dict)
    """stage -> the error that it raised"""
    logits: dict[str, torch.Tensor] = field(default_factory=dict)
    """logits of all tokens that are no padding, by when they were measured: ``base``, ``start``, ``trained``,
    ``loaded`` and ``merged`` with all rows in one batch; ``base alone`` and ``alone`` (trained) with one row at a time;
    ``many rows`` and ``many rows in nines`` (trained) with more and longer rows, in one batch and in batches of nine,
    ``equal rows`` and ``equal rows alone`` with rows of one length, and the same of the ``base``; ``plain base``,
    ``plain start`` and ``plain trained`` on a base without quantization; ``bfloat16`` and ``bfloat16 loaded`` on a base
    in bfloat16; ``base, other seed`` and ``start, other seed``; those with ``elsewhere`` in another process"""
    findable: bool = True
    """whether another process can find the method's class"""
    variants: list[Variant] = field(default_factory=list)
    """the method with other options, seeds and settings"""
    missing_effects: list[str] = field(default_factory=list)
    """a sentence for each option that does not do what its name says"""
    left_behind: list[str] = field(default_factory=list)
    """what changed outside of the model and stayed, such as a function of a library"""
    greedy_gap: float | None = None
    """largest distance of a generated token's logit below the highest logit of a plain forward pass"""
    labels_gap: float = 0.0
    """how far the logits in training depend on the labels"""
    shared_prefix_gap: float | None = None
    """largest relative difference of loss and gradients between padded rows and rows with a shared prefix"""
    losses: list[float] = field(default_factory=list)
    """evaluation losses on the training rows, before and after training"""
    steps: int = 0
    """number of optimizer steps of the training"""
    trainable: int = 0
    """number of trainable parameters at the default options"""
    dtypes: list[str] = field(default_factory=list)
    """dtypes of the parameters trained on a base in bfloat16"""
    without_gradient: list[str] = field(default_factory=list)
    """names of trainable parameters whose gradient was zero in every step"""
    changed: list[str] = field(default_factory=list)
    """names of tensors of the base that training changed"""
    merged: list[str] = field(default_factory=list)
    """names of parameters that either the merged model or the base has, but not both"""
    silent_callbacks: list[str] = field(default_factory=list)
    """names of callback classes that were never called"""
    broken_rules: dict[str, str] = field(default_factory=dict)
    """rule of the comparison that it broke and does not declare -> what it did"""
    files: list[str] = field(default_factory=list)
    """names of the files of the saved adapter"""
    saved_base: list[str] = field(default_factory=list)
    """names of the saved tensors that are weights of the base, unchanged"""
    has_safetensors: bool = False
    """whether the saved adapter has weights as safetensors where a run looks for them"""
    sizes: dict[Any, int] = field(default_factory=dict)
    """value of the size option -> number of trained parameters, in the order of the values"""
    first: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors of the first training"""
    again: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors of a second training with the same seed"""
    resumed: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors of a training that was resumed from a checkpoint of the first"""

    @property
    def batch_dependent(self) -> bool:
        """Whether the base's own answers depend on the other rows of their batch, because of its quantization."""
        return quantizations()[self.quantization].batch_dependent

    @property
    def hung(self) -> bool:
        """Whether a stage took too long; the following ones are then left out."""
        return any(isinstance(error, TimeoutError) for error in self.errors.values())

    @contextmanager
    def stage(self, name: str, seconds: float | None = None) -> Iterator[None]:
        """Record an error of a stage under its name; the following stages still run."""
        try:
            with time_limit(name, seconds):
                yield
        except (Exception, SystemExit) as error:  # the method under test may raise anything
            self.errors[name] = error
