"""Pack several examples into one row, so that there is little padding, and keep them separate."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError
from adapterzoo.tokens.batches import IGNORED, Tokens, to_device

if TYPE_CHECKING:
    from torch import nn


def pack(rows: Sequence[Tokens], length: int) -> list[list[Tokens]]:
    """Return the rows in packs of at most ``length`` tokens: longest row first, each in the fullest pack with room."""
    return [
        [rows[position] for position in packed] for packed in packed_positions([len(ids) for ids, _ in rows], length)
    ]


def packed_positions(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return the positions of the rows in each pack, by the rows' numbers of tokens; see :func:`pack`."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # free tokens and number of each pack, in ascending order
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        size = sizes[position]
        index = bisect.bisect_left(room, (size, -1))
        if index < len(room):
            free, number = room.pop(index)
        else:
            free, number = max(length, size), len(packs)
            packs.append([])
        packs[number].append(position)
        bisect.insort(room, (free - size, number))
    return packs


def pack_batch(packs: Sequence[Sequence[Tokens]], pad_id: int) -> dict[str, Any]:
    """Return packs as one batch of tensors, each of shape (packs, longest pack).

    Positions start again with every example. They tell transformers where an example ends, if the model gets no
    attention mask and no cache. ``attention_mask`` is only for counting tokens, and must not be given to the model.
    """
    import torch

    width = max(sum(len(ids) for ids, _ in rows) for rows in packs)
    padded = []
    for rows in packs:
        padding = width - sum(len(ids) for ids, _ in rows)
        tokens = [pair for ids, learned in rows for pair in zip(ids, learned, strict=True)]
        padded.append(
            {
                "input_ids": [pad_id] * padding + [token for token, _ in tokens],
                # Position 0 makes every padding token an example of its own, which no other token sees.
                "position_ids": [0] * padding + [position for ids, _ in rows for position in range(len(ids))],
                "labels": [IGNORED] * padding + [token if wanted else IGNORED for token, wanted in tokens],
                "attention_mask": [0] * padding + [1] * (width - padding),
            }
        )
    batch: dict[str, Any] = {name: torch.tensor([row[name] for row in padded]) for name in padded[0]}
    return {**batch, "use_cache": False}


def check_separate(model: nn.Module, packs: Sequence[Sequence[Tokens]], pad_id: int) -> None:
    """Check that a model keeps packed examples separate: the logits of an example must not depend on the one before.

    Raises:
        AdapterzooError: the logits depend on it.
    """
    import torch

    first, second = packs[0][0], packs[-1][-1]
    reversed_first = ([*reversed(first[0])], first[1])
    logits = []
    training = model.training
    model.eval()
    with torch.no_grad():
        for before in (first, reversed_first):
            batch = pack_batch([[before, second]], pad_id)
            del batch["attention_mask"], batch["labels"]
            logits.append(model(**to_device(batch, model)).logits[0, -len(second[0]) :].float())
    model.train(training)
    if not torch.allclose(*logits, rtol=1e-3, atol=1e-3):
        raise AdapterzooError(
            "this model, or this method, does not keep packed examples separate: set data.packing: false"
        )
