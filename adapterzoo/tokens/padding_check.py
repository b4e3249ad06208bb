"""Find out whether padding changes what a model computes for a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.tokens.batches import Tokens, pad_batch
from adapterzoo.tokens.joining_check import TOLERANCE, difference, loss_and_logits

if TYPE_CHECKING:
    from torch import nn


def change_by_padding(model: nn.Module, rows: Sequence[Tokens], pad_id: int) -> float:
    """Return how much padding changes the logits of a row, as a share of their standard deviation; 0 if by rounding.

    Attention does not see padding. But the state of a recurrent layer may go through it, which not every architecture
    of transformers prevents, and none for biases that a method adds.

    Args:
        model: the model; it is left in evaluation mode.
        rows: some rows; the shortest of them is padded to the length of the longest.
        pad_id: id of the padding token.
    """
    import torch

    by_length = sorted(rows, key=lambda row: len(row[0]))
    shortest, longest = by_length[0], by_length[-1]
    model.eval()
    with torch.no_grad():
        (_, alone), (_, padded) = (
            loss_and_logits(model, batch)
            for batch in (pad_batch([shortest], pad_id), _only_first(pad_batch([shortest, longest], pad_id)))
        )
    change = difference(alone, padded)
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return 0.0 if change <= TOLERANCE.get(dtype, 0.0) else change


def _only_first(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a padded batch without its other rows."""
    return {name: value[:1] if hasattr(value, "shape") else value for name, value in batch.items()}
