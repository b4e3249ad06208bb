"""Token ids as padded batches: what the model is called with."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

IGNORED = -100
# Of one batch, for which the output head is computed: 800 MB of logits with 50 thousand tokens in the vocabulary.
POSITIONS = 4096
Tokens = tuple[list[int], list[bool]]
"""a row's token ids, and for each whether it is in the loss"""
SealedRow = tuple[bytes, bytes]
"""the same as bytes (32-bit ids, then a byte for each flag), which nobody can change"""


def pad_batch(rows: Sequence[Tokens], pad_id: int) -> dict[str, Any]:
    """Rows as one batch of tensors, each of shape (rows, longest row).

    Padding is on the left, so that all answers end in the last column and the model need compute its output head on
    the last columns only (``logits_to_keep``, an int); ``labels`` has just those columns. What is padding is known
    from the lengths, never from the token, which may be the end token's.
    """
    import torch

    width = max(len(ids) for ids, _ in rows)
    # One more than what is learned: its first token is predicted from the token before.
    kept = min(width, 1 + max(len(ids) - _first(learned) for ids, learned in rows))
    made = []
    for ids, learned in rows:
        padding = width - len(ids)
        labels = [token if wanted else IGNORED for token, wanted in zip(ids, learned, strict=True)]
        made.append(
            {
                "input_ids": [pad_id] * padding + ids,
                "attention_mask": [0] * padding + [1] * len(ids),
                "position_ids": [0] * padding + list(range(len(ids))),
                "labels": ([IGNORED] * padding + labels)[-kept:],
            }
        )
    batch: dict[str, torch.Tensor | int] = {name: torch.tensor([row[name] for row in made]) for name in made[0]}
    batch["logits_to_keep"] = kept
    return batch


def seal(row: Tokens) -> SealedRow:
    """Return a copy of a row that can be given away."""
    ids, learned = row
    return array("i", ids).tobytes(), bytes(learned)


def shuffled_batches(
    rows: Sequence[SealedRow], size: int, seed: int, pad_id: int
) -> Callable[[], Iterator[dict[str, Any]]]:
    """Return a function that gives rows once, as batches, in an order that the seed alone decides.

    It is handed to methods, so nothing but these rows can be reached through it: not the test rows.
    """
    shuffled = tuple(random.Random(seed).sample(rows, len(rows)))

    def batches() -> Iterator[dict[str, Any]]:
        for start in range(0, len(shuffled), size):
            part = shuffled[start : start + size]
            yield pad_batch([(list(array("i", ids)), [bool(flag) for flag in flags]) for ids, flags in part], pad_id)

    return batches


def row_tokens(prompt: list[int], completion: Sequence[int] = ()) -> Tokens:
    """A prompt, and an answer that is in the loss."""
    return [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)


def _first(learned: Sequence[bool]) -> int:
    return learned.index(True) if True in learned else len(learned)


def to_device(batch: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the batch on the device of the model's first parameter."""
    where: torch.device = next(model.parameters()).device
    return {name: value.to(where) if hasattr(value, "to") else value for name, value in batch.items()}


def batches_by_length(
    lengths: Sequence[int], size: int, spans: Sequence[int] | None = None, positions: float = math.inf
) -> list[list[int]]:
    """Return indices in batches of like length: little padding, and the same batches for every model.

    Args:
        lengths: tokens of each row.
        size: rows of a batch, at most.
        spans: for how many positions each row needs the output head; a batch is smaller where they are many.
        positions: of a padded batch, at most; a longer row is alone.
    """
    batches: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        span = spans[index] if spans else 1
        batch = batches[-1] if batches else []
        rows = len(batch) + 1
        heads, width = max(widest, span) * rows, lengths[batch[0]] if batch else 0
        if not batch or rows > size or heads > POSITIONS or width * rows > positions:
            batches.append([])
            widest = 0
        batches[-1].append(index)
        widest = max(widest, span)
    return batches
