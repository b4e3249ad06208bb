"""Count what a training step needs, and what measuring needs, on a model without weights.

The method wraps the model as it will; the step is then done with tensors that have shapes and no content. So the count
has every tensor that the method keeps for its backward pass, and no formula has to know the method.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from adapterzoo.machine.counting import counting
from adapterzoo.prepare.needs import Work

if TYPE_CHECKING:
    from torch import nn

Loss = Callable[[Any, dict[str, Any]], torch.Tensor]


def model_loss(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
    """Return the model's own loss."""
    loss: torch.Tensor = model(**arguments).loss
    return loss


def stand_in_loss(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
    """Return a number for a loss that looks at the content of tensors: it is computed from all logits."""
    names = ("input_ids", "attention_mask", "logits_to_keep")
    logits = model(**{name: arguments[name] for name in names if name in arguments}).logits
    return torch.log_softmax(logits.float(), dim=-1).sum()


def training_step(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss: Loss = model_loss,
    *,
    checkpointing: bool = False,
    masked: bool = True,
) -> Work:
    """Return what a training step needs.

    Args:
        model: the wrapped model, on the meta device; it is left in training mode.
        batch: the arguments of the model's ``forward``, on any device.
        loss: returns the loss for a model and these arguments.
        checkpointing: whether activations are computed again in the backward pass. The model then keeps doing that.
        masked: whether the model takes a mask for each pair of tokens.

    Raises:
        Exception: the model or the loss depends on the content of tensors.
    """
    if checkpointing:
        # There is no generator of random numbers on the meta device whose state could be preserved.
        quick = {"use_reentrant": False, "preserve_rng_state": False}
        base: Any = model
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=quick)
    model.train()
    arguments = shapes_of(batch, masked=masked)
    with counting(_tensors(model)) as counted:
        loss(model, arguments).backward()
    for parameter in model.parameters():
        parameter.grad = None
    return Work(counted.peak, counted.operations)


def answers(model: Any, rows: int, positions: int, *, masked: bool = True) -> Work:
    """Return what it needs to read prompts and keep their keys and values for the answers.

    Args:
        model: the model, wrapped or not, on the meta device; it is left in evaluation mode.
        rows: number of rows of the batch.
        positions: number of tokens of the longest prompt with its answer.
        masked: whether the model takes a mask for each pair of tokens.

    Raises:
        Exception: the model depends on the content of tensors.
    """
    model.eval()
    batch = shapes_of({"input_ids": torch.zeros(rows, positions, dtype=torch.long, device="meta")}, masked=masked)
    with torch.no_grad(), counting(_tensors(model)) as counted:
        output = model(**batch, use_cache=True, logits_to_keep=1)
        del output
    return Work(counted.peak, counted.operations)


def shapes_of(batch: Mapping[str, Any], *, masked: bool = True) -> dict[str, Any]:
    """Return a batch on the meta device, with a mask for each pair of tokens or with none.

    With the mask of a padded batch, or with the numbers of positions, models look into the content, and there is none.
    """
    kept = {name: value for name, value in batch.items() if name not in ("attention_mask", "position_ids")}
    moved = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in kept.items()}
    if not masked:
        return moved
    rows, positions = moved["input_ids"].shape
    return {**moved, "attention_mask": torch.ones(rows, 1, positions, positions, dtype=torch.bool, device="meta")}


def padded_batch(rows: int, positions: int, answer: int) -> dict[str, Any]:
    """Return a batch of padded rows without content.

    Args:
        rows: number of rows.
        positions: number of tokens of the longest row.
        answer: number of positions for which logits are computed.
    """
    ids = torch.zeros(rows, positions, dtype=torch.long, device="meta")
    return {"input_ids": ids, "labels": ids[:, -answer:], "logits_to_keep": answer}


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*itertools.chain(model.parameters(), model.buffers())]
