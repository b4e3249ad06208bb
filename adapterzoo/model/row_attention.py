"""Attention of joined rows, row by row: each sees the common prefix and itself, and nothing is padded.

A mask over joined rows has as many entries as there are pairs of positions in the whole batch, most of them of two
different rows. Here each row's part is computed by itself: by the model's own attention on a CPU, by torch's
variable-length FlashAttention on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

ROW_LENGTHS = "row_lengths"
"""the argument of a model's forward: how long the common prefix is, then how long each row is after it"""
SUFFIX = "_by_row"
FLASH_MAX_HEAD_DIM = 256
# What changes the scores of attention, and FlashAttention in torch has no argument for.
FLASH_LACKS = ("softcap", "s_aux", "position_bias")


def add_row_attention(model: Any) -> None:
    """Have a model's attention take the lengths of joined rows; without them it computes what it did before.

    A model that does not look its attention up in transformers' registry is left as it is.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    own = model.config._attn_implementation
    code = sys.modules[type(model).__module__]
    found = own == "sdpa" or (own == "eager" and hasattr(code, "eager_attention_forward"))
    if not found or not hasattr(code, "ALL_ATTENTION_FUNCTIONS"):
        return
    AttentionInterface.register(own + SUFFIX, partial(_attend, own))
    AttentionMaskInterface.register(own + SUFFIX, ALL_MASK_ATTENTION_FUNCTIONS[own])
    model.config._attn_implementation = own + SUFFIX


def has_row_attention(model: Any) -> bool:
    """Return whether a model's attention takes the lengths of joined rows."""
    return str(model.config._attn_implementation).endswith(SUFFIX)


def in_one_kernel(model: nn.Module) -> bool:
    """Return whether the rows of a batch are computed by one kernel, on a GPU."""
    import torch

    weight = next(model.parameters())
    return has_row_attention(model) and weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16)


def _attend(
    own: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_lengths: tuple[int, ...] | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, Any]:
    """Return what attention gives, (rows, positions, heads, head's width), and its weights where it keeps them.

    Args:
        own: the implementation that the model was loaded with.
        module: a layer's attention.
        query: (rows, heads, positions, head's width); one row of all joined ones where ``row_lengths`` is given.
        key: likewise, perhaps with fewer heads.
        value: like ``key``.
        attention_mask: of padded rows; not looked at where ``row_lengths`` is given.
        row_lengths: see ROW_LENGTHS.
        settings: for the model's own attention.
    """
    compute = _own_attention(own, module)
    if row_lengths is None:
        return compute(module, query, key, value, attention_mask, **settings)
    import torch

    prefix, *lengths = row_lengths
    plain = not settings.get("dropout") and all(settings.get(name) is None for name in FLASH_LACKS)
    half = query.dtype in (torch.bfloat16, torch.float16)
    if query.is_cuda and half and plain and query.shape[-1] <= FLASH_MAX_HEAD_DIM:
        return _flash(query, key, value, row_lengths, settings.get("scaling")), None
    hidden = _hidden(prefix + max(lengths), query.dtype, query.device)
    parts = [length for length in row_lengths if length]  # there may be no prefix
    queries, keys, values = (tensor.split(parts, dim=2) for tensor in (query, key, value))
    answers = []
    for number, own_query in enumerate(queries):
        seen = [0, number] if prefix and number else [number]
        all_keys, all_values = (torch.cat([part[at] for at in seen], dim=2) for part in (keys, values))
        end = all_keys.shape[2]
        mask = hidden[:, :, end - own_query.shape[2] : end, :end]
        answers.append(compute(module, own_query, all_keys, all_values, mask, **settings)[0])
    return torch.cat(answers, dim=1), None


def _own_attention(own: str, module: nn.Module) -> Callable[..., tuple[torch.Tensor, Any]]:
    """Return the function that a layer would call if its model had no row attention."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if own == "sdpa":
        return sdpa_attention_forward  # type: ignore[no-any-return]
    return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]


@lru_cache(maxsize=2)  # all layers of a batch ask for the same
def _hidden(length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return what is added to the scores of so many positions in order that none sees a later one."""
    import torch

    return torch.full((1, 1, length, length), torch.finfo(dtype).min, dtype=dtype, device=device).triu(1)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_lengths: tuple[int, ...],
    scale: float | None,
) -> torch.Tensor:
    """Return the attention of all rows by one kernel; the prefix's keys stand in front of each row's own."""
    from torch.nn.attention.varlen import varlen_attn

    order, asked, seen = _flash_lengths(row_lengths, query.device)
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if row_lengths[0]:
        keys, values = keys[order], values[order]
    longest = max(row_lengths[1:])
    answers = varlen_attn(
        queries, keys, values, asked, seen, max(row_lengths), row_lengths[0] + longest,
        scale=scale, window_size=(-1, 0), enable_gqa=keys.shape[1] != queries.shape[1],
    )  # fmt: skip
    return answers[None]


@lru_cache(maxsize=2)
def _flash_lengths(
    row_lengths: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return which keys stand one after the other, and where each row's queries and keys begin, the prefix first."""
    import torch

    prefix, *lengths = row_lengths
    asked = [prefix, *lengths] if prefix else lengths
    seen = [prefix, *(prefix + length for length in lengths)] if prefix else lengths
    ends = list(accumulate(lengths, initial=prefix))
    order = [*range(prefix)]
    for begin, end in pairwise(ends):
        order += [*range(prefix), *range(begin, end)]
    begins = [torch.tensor([0, *accumulate(many)], dtype=torch.int32, device=device) for many in (asked, seen)]
    return torch.tensor(order, device=device), begins[0], begins[1]
