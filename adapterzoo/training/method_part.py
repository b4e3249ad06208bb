"""Collect the functions of a method that a training calls: callbacks, optimizer, and the state for checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import nn
from transformers import TrainerCallback

from adapterzoo.methods.contract import Context, Method


@dataclass(frozen=True)
class MethodPart:
    """The functions of a method that one training calls."""

    callbacks: Sequence[TrainerCallback] = ()
    optimizer: Callable[[type[torch.optim.Optimizer], dict[str, Any]], torch.optim.Optimizer | None] = (
        lambda kind, settings: None
    )
    """makes the method's own optimizer from the class of the recipe's optimizer and its arguments; None: it has none"""
    get_state: Callable[[], dict[str, torch.Tensor]] = dict
    """returns what the method keeps in checkpoints, beside parameters and buffers"""
    set_state: Callable[[dict[str, torch.Tensor]], None] = lambda state: None
    """is called with what was kept, when training goes on from a checkpoint"""
    resumes: bool = True
    """whether training may go on from a checkpoint"""

    @classmethod
    def of(cls, method: Method[Any], model: nn.Module, options: Any, context: Context) -> Self:
        """Return the part of a method in the training of a model that it has wrapped."""
        return cls(
            callbacks=method.callbacks(options, context),
            optimizer=partial(method.optimizer, model, options),
            get_state=partial(method.training_state, model),
            set_state=partial(method.restore_training_state, model),
            resumes=method.resumes,
        )
