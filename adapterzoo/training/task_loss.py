"""Give a model a task's own loss, so that a method can add its terms to it as it does to any other loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

Loss = Callable[["torch.Tensor"], "torch.Tensor"]
"""returns the loss of the logits of a batch"""
ATTRIBUTE = "_loss_function"  # where transformers keeps a model's loss function, if it is not the default one


def task_loss(model: nn.Module, batch: dict[str, Any], loss: Loss) -> torch.Tensor:
    """Call a causal language model; return a task's loss, with the terms that a method adds to the model's own loss.

    Some methods add a regulariser to the loss in the model's output. A loss that is computed beside the model would
    leave it out without a word. So the model computes the task's loss in the place of its own.

    Args:
        model: the model, wrapped by a method.
        batch: arguments of the model, with ``labels``, as :func:`adapterzoo.tokens.batches.pad_batch` returns them.
        loss: returns the task's loss of the model's logits.
    """
    from torch.nn import functional

    from adapterzoo.tokens.shared_prefix import learned_logits

    computed = []

    def compute(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        computed.append(loss(logits))
        return computed[-1]

    with _loss_function(model, compute):
        output: Any = model(**batch)
    if computed:
        whole: torch.Tensor = output.loss
        return whole
    # The model has its own code for the loss: put the task's loss in the place of the part that is known.
    logits, targets = learned_logits(output.logits, batch)
    return loss(output.logits) + (output.loss - functional.cross_entropy(logits.float(), targets))


def smoothed(batch: dict[str, Any], factor: float, number: float | torch.Tensor | None) -> Loss:
    """Return the loss of a batch's learned tokens with smoothed labels.

    Args:
        batch: the batch.
        factor: share of a label that is spread over all tokens of the vocabulary.
        number: what the sum of the losses is divided by; None for the number of learned tokens in the batch.
    """
    from torch.nn import functional

    from adapterzoo.tokens.shared_prefix import learned_logits

    def loss(logits: torch.Tensor) -> torch.Tensor:
        learned, targets = learned_logits(logits, batch)
        whole = functional.cross_entropy(learned.float(), targets, reduction="sum", label_smoothing=factor)
        return whole / (targets.numel() if number is None else number)

    return loss


@contextmanager
def _loss_function(model: nn.Module, function: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Make a function the loss function of transformers' models in a wrapped model."""
    from transformers import PreTrainedModel

    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    before = [vars(module).get(ATTRIBUTE) for module in models]
    try:
        for module in models:
            setattr(module, ATTRIBUTE, function)
        yield
    finally:
        for module, own in zip(models, before, strict=True):
            if own is None:
                delattr(module, ATTRIBUTE)
            else:
                setattr(module, ATTRIBUTE, own)


def output_and_terms(model: nn.Module, batch: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """Call a model that computes no loss; return its output, and the terms that a method adds to a loss.

    A method finds a loss of 0 in the output of transformers' model. What it makes of it is therefore all that it adds.

    Args:
        model: the model, wrapped by a method.
        batch: arguments of the model.
    """
    import torch

    with _loss_of_zero(model):
        output: Any = model(**batch)
    terms = getattr(output, "loss", None)
    return output, torch.zeros((), device=output.last_hidden_state.device) if terms is None else terms


@contextmanager
def _loss_of_zero(model: nn.Module) -> Iterator[None]:
    """Put a loss of 0 into the output of transformers' model in a wrapped model."""
    import torch
    from transformers import PreTrainedModel

    inner: Any = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None:
        yield
        return
    own, forward = vars(inner).get("forward"), inner.forward

    def with_loss(*arguments: Any, **named: Any) -> Any:
        output = forward(*arguments, **named)
        output.loss = torch.zeros((), device=output.last_hidden_state.device)
        return output

    # Some methods call it directly, where a hook would not run.
    inner.forward = with_loss
    try:
        yield
    finally:
        if own is None:
            del inner.forward
        else:
            inner.forward = own
