"""Put the token ids of rows into padded batches, with which a model is called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

IGNORED = -100
"""label of a token that is not in the loss"""
# With a vocabulary of 50,000 tokens, the logits of 4096 positions take 800 MB.
MAX_HEAD_POSITIONS = 4096
"""largest number of positions in a batch for which the output head is computed"""
Tokens = tuple[list[int], list[bool]]
"""a row's token ids, and for each id whether it is in the loss"""


def pad_batch(rows: Sequence[Tokens], pad_id: int) -> dict[str, Any]:
    """Return rows as one batch of tensors, each of shape (rows, longest row).

    Padding is on the left, so that all answers end in the last column. The model then computes its output head for the
    last columns only: ``logits_to_keep`` (an int) says how many, and ``labels`` has only those columns. Padding is
    known from the lengths of the rows and not from the token, which may be the end token.
    """
    import torch

    width = max(len(ids) for ids, _ in rows)
    # Keep one column before the first learned token, because it predicts that token.
    kept = min(width, 1 + max(len(ids) - _first_learned(learned) for ids, learned in rows))
    padded = []
    for ids, learned in rows:
        padding = width - len(ids)
        labels = [token if wanted else IGNORED for token, wanted in zip(ids, learned, strict=True)]
        padded.append(
            {
                "input_ids": [pad_id] * padding + ids,
                "attention_mask": [0] * padding + [1] * len(ids),
                "position_ids": [0] * padding + list(range(len(ids))),
                "labels": ([IGNORED] * padding + labels)[-kept:],
            }
        )
    batch: dict[str, torch.Tensor | int] = {name: torch.tensor([row[name] for row in padded]) for name in padded[0]}
    batch["logits_to_keep"] = kept
    return batch


def row_tokens(prompt: list[int], completion: Sequence[int] = ()) -> Tokens:
    """Return the tokens of a prompt and its completion, of which only the completion is in the loss."""
    return [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)


def _first_learned(learned: Sequence[bool]) -> int:
    return learned.index(True) if True in learned else len(learned)


def to_device(batch: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the batch on the device of the model's first parameter."""
    where: torch.device = next(model.parameters()).device
    return {name: value.to(where) if hasattr(value, "to") else value for name, value in batch.items()}


def without_labels(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch without its labels, so that the model computes no loss."""
    return {name: value for name, value in batch.items() if name not in ("labels", "shift_labels")}


def batches_by_length(
    lengths: Sequence[int], size: int, spans: Sequence[int] | None = None, max_positions: float = math.inf
) -> list[list[int]]:
    """Return the indices of rows in batches of similar length, so that there is little padding.

    Args:
        lengths: number of tokens of each row.
        size: largest number of rows in a batch.
        spans: for each row, how many positions need the output head; batches are smaller if the numbers are large.
        max_positions: largest number of positions in a padded batch; a row that is longer gets its own batch.
    """
    batches: list[list[int]] = []
    widest_span = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        span = spans[index] if spans else 1
        batch = batches[-1] if batches else []
        rows = len(batch) + 1
        head_positions, width = max(widest_span, span) * rows, lengths[batch[0]] if batch else 0
        if not batch or rows > size or head_positions > MAX_HEAD_POSITIONS or width * rows > max_positions:
            batches.append([])
            widest_span = 0
        batches[-1].append(index)
        widest_span = max(widest_span, span)
    return batches
