"""Compute attention row by row for rows that are joined in one sequence: each row sees the common prefix and itself.

tokens/shared_prefix.py joins the rows. A mask over joined rows has an entry for each pair of positions in the whole
batch, and most pairs are of two different rows. Here each row is computed by itself: by the model's own attention on a
CPU, and by torch's variable-length FlashAttention on a GPU.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache, lru_cache, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

ROW_LENGTHS = "row_lengths"
"""argument of a model's forward: the lengths in tokens of the common prefix, then of each row after the prefix"""
BY_ROW = "_by_row"
"""end of the name under which transformers finds an attention implementation that takes ``row_lengths``"""
FLASH_MAX_HEAD_DIM = 256
FLASH_MIN_CAPABILITY = (8, 0)  # of the GPU: an A100 has it, a T4 or a V100 does not
# Settings that change the scores of attention and that torch's FlashAttention does not accept.
FLASH_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


def add_row_attention(model: Any) -> None:
    """Make a model's attention accept the lengths of joined rows; without them it computes the same as before.

    A model that does not take its attention from transformers' registry is left as it is.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    own = model.config._attn_implementation
    code = sys.modules[type(model).__module__]
    known = own == "sdpa" or (own == "eager" and hasattr(code, "eager_attention_forward"))
    if not known or not hasattr(code, "ALL_ATTENTION_FUNCTIONS"):
        return
    AttentionInterface.register(own + BY_ROW, partial(_attend, own))
    AttentionMaskInterface.register(own + BY_ROW, ALL_MASK_ATTENTION_FUNCTIONS[own])
    model.config._attn_implementation = own + BY_ROW


def has_row_attention(model: Any) -> bool:
    """Tell whether a model's attention accepts the lengths of joined rows."""
    return str(model.config._attn_implementation).endswith(BY_ROW)


def in_one_kernel(model: nn.Module) -> bool:
    """Tell whether one GPU kernel computes all rows of a joined batch."""
    import torch

    weight = next(model.parameters())
    half_precision = weight.dtype in (torch.bfloat16, torch.float16)
    return has_row_attention(model) and half_precision and _has_flash(weight.device)


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
    """Return the output of attention, (rows, positions, heads, width of a head), and its weights if it has them.

    Args:
        own: name of the implementation that the model was loaded with.
        module: the attention module of a layer.
        query: (rows, heads, positions, width of a head); with ``row_lengths``, one row that joins all of them.
        key: like ``query``, perhaps with fewer heads.
        value: like ``key``.
        attention_mask: the mask of padded rows; not used with ``row_lengths``.
        row_lengths: see ROW_LENGTHS.
        settings: more arguments of the model's own attention.
    """
    compute = _own_attention(own, module)
    if row_lengths is None:
        return compute(module, query, key, value, attention_mask, **settings)
    import torch

    prefix, *lengths = row_lengths
    supported = not settings.get("dropout") and all(settings.get(name) is None for name in FLASH_UNSUPPORTED)
    half_precision = query.dtype in (torch.bfloat16, torch.float16)
    supported = supported and half_precision and query.shape[-1] <= FLASH_MAX_HEAD_DIM
    if supported and _has_flash(query.device):
        return _flash(query, key, value, row_lengths, settings.get("scaling")), None
    causal = _causal_mask(prefix + max(lengths), query.dtype, query.device)
    sizes = [length for length in row_lengths if length]  # the prefix may be empty
    queries, keys, values = (tensor.split(sizes, dim=2) for tensor in (query, key, value))
    outputs = []
    for number, row_query in enumerate(queries):
        seen = [0, number] if prefix and number else [number]
        all_keys, all_values = (torch.cat([tensors[index] for index in seen], dim=2) for tensors in (keys, values))
        end = all_keys.shape[2]
        mask = causal[:, :, end - row_query.shape[2] : end, :end]
        outputs.append(compute(module, row_query, all_keys, all_values, mask, **settings)[0])
    return torch.cat(outputs, dim=1), None


def _own_attention(own: str, module: nn.Module) -> Callable[..., tuple[torch.Tensor, Any]]:
    """Return the function that a layer would call if its model had no row attention."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if own == "sdpa":
        return sdpa_attention_forward  # type: ignore[no-any-return]
    return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]


@lru_cache(maxsize=2)  # all layers of a model use the same mask for a batch
def _causal_mask(length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a mask that is added to attention scores, so that no position sees a later one."""
    import torch

    return torch.full((1, 1, length, length), torch.finfo(dtype).min, dtype=dtype, device=device).triu(1)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_lengths: tuple[int, ...],
    scale: float | None,
) -> torch.Tensor:
    """Return the attention of all rows, computed by one kernel; each row sees the keys of the prefix and its own."""
    from torch.nn.attention.varlen import varlen_attn

    key_order, query_starts, key_starts = _flash_indices(row_lengths, query.device)
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if row_lengths[0]:
        keys, values = keys[key_order], values[key_order]
    longest = max(row_lengths[1:])
    settings: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}
    if (group := queries.shape[1] // keys.shape[1]) > 1:  # several query heads share the keys of one head
        if _flash_accepts("enable_gqa"):
            settings["enable_gqa"] = True
        else:
            keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    output = varlen_attn(
        queries, keys, values, query_starts, key_starts, max(row_lengths), row_lengths[0] + longest, **settings
    )
    return output[None]


@cache
def _has_flash(device: torch.device) -> bool:
    """Tell whether torch can compute FlashAttention for rows of different lengths on a device."""
    import torch

    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FLASH_MIN_CAPABILITY:
        return False
    return _flash_accepts("window_size")


@cache
def _flash_accepts(argument: str) -> bool:
    """Tell whether torch's FlashAttention for rows of different lengths has an argument; older versions lack some."""
    from torch.nn.attention.varlen import varlen_attn

    return argument in inspect.signature(varlen_attn).parameters


@lru_cache(maxsize=2)
def _flash_indices(
    row_lengths: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the indices of the keys that each row sees, and where its queries and keys begin; the prefix is a row."""
    import torch

    prefix, *lengths = row_lengths
    query_lengths = [prefix, *lengths] if prefix else lengths
    key_lengths = [prefix, *(prefix + length for length in lengths)] if prefix else lengths
    ends = list(accumulate(lengths, initial=prefix))
    order = [*range(prefix)]
    for begin, end in pairwise(ends):
        order += [*range(prefix), *range(begin, end)]
    query_starts, key_starts = (
        torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device)
        for sizes in (query_lengths, key_lengths)
    )
    return torch.tensor(order, device=device), query_starts, key_starts
