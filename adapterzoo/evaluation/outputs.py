"""Compute a model's outputs for the examples of a split, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.evaluation.likelihood import max_positions
from adapterzoo.machine import ranks
from adapterzoo.tasks.examples import Example
from adapterzoo.tokens.batches import batches_by_length, to_device

if TYPE_CHECKING:
    from torch import nn


def outputs(
    model: nn.Module,
    examples: Sequence[Any],
    collate: Callable[[Sequence[Any]], dict[str, Any]],
    batch_size: int,
    read: Callable[[Any, Sequence[Any]], Sequence[Any]],
    spans: Sequence[int] | None = None,
) -> list[Any]:
    """Return what is read from the model's output for each example, in the order of the examples.

    Args:
        model: the model; it is left in evaluation mode.
        examples: the examples, each an :class:`~adapterzoo.tasks.contract.Example`.
        collate: returns the arguments of the model for some examples; without labels, as no loss is needed.
        batch_size: largest number of examples in a batch.
        read: returns what is to be kept for each example, from the model's output for a batch and the examples in it.
        spans: for each example, how many positions need a large output head; None if the head is small.
    """
    import torch

    kept: dict[int, Any] = {}
    model.eval()
    sizes = [_size(example) for example in examples]
    with torch.no_grad():
        for indices in ranks.own_share(batches_by_length(sizes, batch_size, spans, max_positions(model))):
            group = [examples[index] for index in indices]
            output = model(**to_device(collate(group), model))
            for index, value in zip(indices, read(output, group), strict=True):
                kept[index] = value
    kept = ranks.merged(kept)
    return [kept[index] for index in range(len(examples))]


def _size(example: Example) -> int:
    return example.size
