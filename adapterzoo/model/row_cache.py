"""Keep the keys and values that attention computed for each row of a batch, so that text can be generated after it.

A row is a part of its batch: of one sequence that joins all rows, or of one line of a padded batch. Rows from several
batches, each up to the token that is needed, are put together in a new padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.model.row_attention import ROW_LENGTHS

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache


class RowCache(NamedTuple):
    """The keys and values of one row's tokens."""

    batch: DynamicCache
    """keys and values of the row's whole batch"""
    line: int
    """index of the row's line in the batch"""
    spans: tuple[tuple[int, int], ...]
    """begin and end of the places in the line that have the row's tokens, in their order"""

    def places(self, tokens: int) -> list[tuple[int, int]]:
        """Return begin and end of the places that have the first tokens of the row."""
        places = []
        for begin, end in self.spans:
            end = min(end, begin + tokens)
            places.append((begin, end))
            tokens -= end - begin
        return places


def row_caches(computed: DynamicCache, batch: Mapping[str, Any]) -> list[RowCache]:
    """Return the cache of each row of a batch.

    Args:
        computed: the cache with which the model was called for the batch.
        batch: the batch of joined or padded rows (see tokens/).
    """
    if ROW_LENGTHS in batch:
        prefix, *lengths = batch[ROW_LENGTHS]
        begins = [prefix + sum(lengths[:number]) for number in range(len(lengths))]
        spans = [((0, prefix), (begin, begin + length)) for begin, length in zip(begins, lengths, strict=True)]
        return [RowCache(computed, 0, both) for both in spans]
    width = batch["input_ids"].shape[1]
    tokens = batch["attention_mask"].sum(dim=1).tolist()
    return [RowCache(computed, line, ((width - count, width),)) for line, count in enumerate(tokens)]


def padded_cache(rows: Sequence[RowCache], tokens: Sequence[int]) -> tuple[DynamicCache, torch.Tensor]:
    """Return the first tokens of each row as the cache of one batch, padded on the left.

    Args:
        rows: the rows.
        tokens: how many of its first tokens to take from each row.

    Returns:
        The cache, and its attention mask of shape (rows, longest row): 1 for a token, 0 for padding.
    """
    import torch
    from transformers import DynamicCache

    width = max(tokens)
    places = [row.places(count) for row, count in zip(rows, tokens, strict=True)]
    padded = DynamicCache()
    for number, layer in enumerate(rows[0].batch.layers):
        if not layer.is_initialized:  # a layer that uses the keys and values of another one has none itself
            continue
        sides = []
        for side in ("keys", "values"):
            computed = [getattr(row.batch.layers[number], side)[row.line] for row in rows]
            heads, _, size = computed[0].shape
            together = computed[0].new_zeros(len(rows), heads, width, size)
            for line, tensor, spans, count in zip(together, computed, places, tokens, strict=True):
                at = width - count
                for begin, end in spans:
                    line[:, at : at + end - begin] = tensor[:, begin:end]
                    at += end - begin
            sides.append(together)
        padded.update(*sides, number)
    device = rows[0].batch.layers[0].keys.device
    counts = torch.tensor(tokens, device=device)
    mask = torch.arange(width, device=device)[None, :] >= width - counts[:, None]
    return padded, mask.long()
