"""Several examples in one row: full rows in place of padding, and no example sees another."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError
from adapterzoo.tokens.batches import IGNORED, Tokens, to_device

if TYPE_CHECKING:
    from torch import nn


def pack(rows: Sequence[Tokens], length: int) -> list[list[Tokens]]:
    """The rows in groups of no more than ``length`` tokens together; the longest first, each where it fits best."""
    packs: list[list[Tokens]] = []
    room: list[tuple[int, int]] = []  # tokens left, number of the pack; in order
    for row in sorted(rows, key=lambda row: -len(row[0])):
        at = bisect.bisect_left(room, (len(row[0]), -1))
        if at < len(room):
            left, number = room.pop(at)
        else:
            left, number = max(length, len(row[0])), len(packs)
            packs.append([])
        packs[number].append(row)
        bisect.insort(room, (left - len(row[0]), number))
    return packs


def pack_batch(packs: Sequence[Sequence[Tokens]], pad_id: int) -> dict[str, Any]:
    """Packs as one batch of tensors, each of shape (packs, longest pack).

    Positions begin anew with every example, which is how transformers tells where one ends: without an attention
    mask and without a cache. ``attention_mask`` is there to count tokens by, and must not reach the model.
    """
    import torch

    width = max(sum(len(ids) for ids, _ in rows) for rows in packs)
    made = []
    for rows in packs:
        padding = width - sum(len(ids) for ids, _ in rows)
        tokens = [pair for ids, learned in rows for pair in zip(ids, learned, strict=True)]
        made.append(
            {
                "input_ids": [pad_id] * padding + [token for token, _ in tokens],
                # Every padding token a row of its own, which nothing attends to.
                "position_ids": [0] * padding + [position for ids, _ in rows for position in range(len(ids))],
                "labels": [IGNORED] * padding + [token if wanted else IGNORED for token, wanted in tokens],
                "attention_mask": [0] * padding + [1] * (width - padding),
            }
        )
    batch: dict[str, Any] = {name: torch.tensor([row[name] for row in made]) for name in made[0]}
    return {**batch, "use_cache": False}


def check_separate(model: nn.Module, packs: Sequence[Sequence[Tokens]], pad_id: int) -> None:
    """See that this model keeps packed examples apart: what the second one is answered must not depend on the first.

    Raises:
        AdapterzooError: it does not.
    """
    import torch

    first, second = packs[0][0], packs[-1][-1]
    other = ([*reversed(first[0])], first[1])
    answers = []
    training = model.training
    model.eval()
    with torch.no_grad():
        for before in (first, other):
            batch = pack_batch([[before, second]], pad_id)
            del batch["attention_mask"], batch["labels"]
            answers.append(model(**to_device(batch, model)).logits[0, -len(second[0]) :].float())
    model.train(training)
    if not torch.allclose(*answers, rtol=1e-3, atol=1e-3):
        raise AdapterzooError(
            "this model, or this method, does not keep packed examples apart: set data.packing: false"
        )
