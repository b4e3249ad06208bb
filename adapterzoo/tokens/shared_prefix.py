"""Join the rows of a batch in one sequence, so that their common prefix is computed once and nothing is padded.

The sequence is the common prefix, if there is one, and then each row's own tokens. The positions of each row
continue after the prefix. A token sees the prefix and the earlier tokens of its own row. Either a mask over the whole
sequence does this, which is fastest for short rows, or attention is computed row by row (row_attention.py). So each
token sees the same tokens as in a padded batch, but the chat template's beginning and the system message, which are
often most of a row, are computed only once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.model.config import text_config
from adapterzoo.model.row_attention import ROW_LENGTHS, has_row_attention, in_one_kernel
from adapterzoo.tokens.batches import IGNORED, Tokens, pad_batch

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import DynamicCache

ATTENTION_COST = 4.0
"""CPU time of one operation of attention; the unit is the time of one operation of a matrix product"""
ROW_OPERATIONS = 1.5e7
"""CPU time that a layer needs to begin another row, in the same unit"""


@dataclass(frozen=True)
class SharedPrefix:
    """Makes batches in the form that costs least: padded rows, or joined rows with a mask or row by row.

    The unit of all costs is the time of one position in all layers without their attention.
    """

    pair_cost: float
    """cost of a pair of positions in attention"""
    row_cost: float | None = None
    """cost of computing the attention of one more row by itself; None if the model cannot do that"""

    @classmethod
    def of(cls, model: nn.Module) -> SharedPrefix:
        """Return the costs for the sizes of a model."""
        text = text_config(model.config)
        embedded = model.get_input_embeddings().weight.numel()
        linear = max(sum(parameter.numel() for parameter in model.parameters()) - embedded, 1)
        row_cost = ROW_OPERATIONS * text.num_hidden_layers / linear if has_row_attention(model) else None
        pair_cost = ATTENTION_COST * 2 * text.hidden_size * text.num_hidden_layers / linear
        return cls(pair_cost, 0.0 if in_one_kernel(model) else row_cost)

    def joining_is_cheaper(self, rows: Sequence[Tokens]) -> bool:
        """Tell whether joined rows cost less than padded ones."""
        return min(self._joined_costs(rows)) < self._padded_cost(rows)

    def batch(self, rows: Sequence[Tokens], pad_id: int) -> dict[str, Any]:
        """Return rows as a batch in the form that costs least; call a model through :func:`model_arguments`."""
        masked, by_row = self._joined_costs(rows)
        return joined_batch(rows, by_row=by_row < masked) if self.joining_is_cheaper(rows) else pad_batch(rows, pad_id)

    def tree(self, rows: Sequence[Tokens], pad_id: int) -> dict[str, Any]:
        """Return rows as :func:`tree_batch` does, or padded if that costs less."""
        batch = tree_batch(rows)
        positions = batch["input_ids"].numel()
        cheaper = positions + self.pair_cost * positions**2 < self._padded_cost(rows)
        return batch if cheaper else pad_batch(rows, pad_id)

    def _padded_cost(self, rows: Sequence[Tokens]) -> float:
        width = max(len(ids) for ids, _ in rows)
        return len(rows) * (width + self.pair_cost * width**2)

    def _joined_costs(self, rows: Sequence[Tokens]) -> tuple[float, float]:
        """Return the cost of joined rows with a mask, and the cost row by row."""
        prefix = common_prefix(rows)
        own = [len(ids) - prefix for ids, _ in rows]
        positions = prefix + sum(own)
        masked = positions + self.pair_cost * positions**2
        if self.row_cost is None:
            return masked, math.inf
        pairs = prefix**2 + sum(length * (prefix + length) for length in own)
        return masked, positions + self.pair_cost * pairs + self.row_cost * len(rows)


def common_prefix(rows: Sequence[Tokens]) -> int:
    """Return the number of tokens with which all rows begin.

    The prefix ends before the first token that predicts a learned one, because each row has its own learned tokens.
    """
    limit = min(learned.index(True) - 1 if True in learned else len(ids) - 1 for ids, learned in rows)
    first = rows[0][0]
    for index in range(limit):
        if any(ids[index] != first[index] for ids, _ in rows):
            return index
    return max(limit, 0)


def joined_batch(rows: Sequence[Tokens], *, by_row: bool = False) -> dict[str, Any]:
    """Return rows as one sequence.

    Returns:
        ``input_ids`` and ``position_ids``, tensors of shape (1, positions). ``labels`` and ``shift_labels``, of shape
        (1, learned tokens): the learned tokens, row by row. ``logits_to_keep``, of shape (learned tokens,): the
        positions that predict them. ``row_lengths``: see ROW_LENGTHS. ``visible``, of shape (1, 1, positions,
        positions): which positions each one sees; left out with ``by_row``. ``attention_mask``, of shape (1, tokens of
        all rows): only for counting tokens, it must not be given to the model.
    """
    import torch

    prefix = common_prefix(rows)
    ids, positions = list(rows[0][0][:prefix]), list(range(prefix))
    owner = [0] * prefix  # number of the row that each position belongs to; 0 for the prefix
    predicting, targets = [], []
    for number, (row, learned) in enumerate(rows, start=1):
        shift = len(ids) - prefix  # from an index in the row to its index in the sequence
        predicting += [shift + index - 1 for index, wanted in enumerate(learned) if wanted]
        targets += [token for token, wanted in zip(row, learned, strict=True) if wanted]
        ids += row[prefix:]
        positions += range(prefix, len(row))
        owner += [number] * (len(row) - prefix)
    labels = torch.tensor([targets])
    batch = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        ROW_LENGTHS: (prefix, *(len(row) - prefix for row, _ in rows)),
        "attention_mask": torch.ones(1, sum(len(row) for row, _ in rows), dtype=torch.long),
        "labels": labels,
        "shift_labels": labels,
        "logits_to_keep": torch.tensor(predicting),
    }
    if not by_row:
        owners = torch.tensor(owner)
        visible = (owners[:, None] == owners[None, :]) | (owners[None, :] == 0)
        batch["visible"] = visible.tril()[None, None]
    return batch


def tree_batch(rows: Sequence[Tokens]) -> dict[str, Any]:
    """Return rows as one sequence, in which tokens are only once that several rows begin with.

    Several answers to one prompt have the prompt in common, and all prompts the system message.

    Returns:
        See :func:`joined_batch`. ``learned_rows``, of shape (learned tokens,), says which row each learned token is of.
    """
    import torch

    ids: list[int] = []
    positions: list[int] = []
    places: dict[int, list[int]] = {}  # number of a row -> place of each of its tokens in the sequence
    before: list[int] = []
    before_places: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: rows[number][0]):  # rows with the same beginning adjoin
        row = rows[number][0]
        pairs = enumerate(zip(row, before, strict=False))
        same = next((index for index, (a, b) in pairs if a != b), min(len(row), len(before)))
        places[number] = [*before_places[:same], *range(len(ids), len(ids) + len(row) - same)]
        ids += row[same:]
        positions += range(same, len(row))
        before, before_places = row, places[number]
    visible = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for own in map(torch.tensor, places.values()):
        visible[own[:, None], own] = torch.ones(len(own), len(own), dtype=torch.bool).tril()
    learned = [
        (number, places[number][index - 1], row[index])
        for number, (row, wanted) in enumerate(rows)
        for index in range(len(row))
        if wanted[index]
    ]
    owners, predicting, targets = (torch.tensor(values) for values in zip(*learned, strict=True))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "attention_mask": torch.ones(1, sum(len(row) for row, _ in rows), dtype=torch.long),
        "labels": targets[None],
        "shift_labels": targets[None],
        "logits_to_keep": predicting,
        "visible": visible[None, None],
        "learned_rows": owners,
    }


def model_arguments(batch: dict[str, Any], model: Any, cache: DynamicCache | None = None) -> dict[str, Any]:
    """Return the arguments to call a model with for a batch of padded or joined rows.

    Args:
        batch: the batch.
        model: the model.
        cache: receives the keys and values of all tokens.
    """
    import torch

    if cache is not None:
        batch = {**batch, "past_key_values": cache, "use_cache": True}
    if ROW_LENGTHS not in batch and "visible" not in batch:
        return batch
    batch = {"use_cache": False, **batch}
    if "visible" not in batch:
        # Given a mask of four dimensions, transformers makes no mask of its own; row attention ignores this one.
        return {**batch, "attention_mask": torch.empty(1, 1, 0, 0, device=batch["input_ids"].device)}
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    mask = torch.zeros(batch["visible"].shape, dtype=dtype, device=batch["visible"].device)
    mask.masked_fill_(~batch["visible"], torch.finfo(dtype).min)
    arguments = {name: value for name, value in batch.items() if name not in ("visible", "learned_rows", ROW_LENGTHS)}
    return {**arguments, "attention_mask": mask}


def learned_logits(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits that predict learned tokens, (learned tokens, vocabulary), and these tokens, row by row."""
    return next(learned_parts(logits, batch, batch["labels"].numel()))


def learned_rows(batch: dict[str, Any]) -> torch.Tensor:
    """Return for each learned token of a padded batch, or of a tree, the number of its row."""
    if "learned_rows" in batch:
        rows: torch.Tensor = batch["learned_rows"]
        return rows
    return (batch["labels"][:, 1:] != IGNORED).nonzero()[:, 0]


def learned_parts(
    logits: torch.Tensor, batch: dict[str, Any], size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what :func:`learned_logits` returns, in parts of at most ``size`` tokens."""
    if "shift_labels" in batch:  # the rows are joined
        yield from zip(logits[0].split(size), batch["labels"][0].split(size), strict=True)
        return
    targets = batch["labels"][:, 1:]
    learned = (targets != IGNORED).nonzero()
    logits = logits[:, -batch["labels"].shape[1] :]  # a model that ignores logits_to_keep returns more of them
    for rows, positions in (indices.unbind(1) for indices in learned.split(size)):
        yield logits[rows, positions], targets[rows, positions]
