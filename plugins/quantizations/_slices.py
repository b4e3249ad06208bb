"""Quantize weights in slices on a CPU.

There, bitsandbytes needs 8 to 16 bytes for each number of a weight while it quantizes it, of which one or a half is
left. Rows, or blocks of 64 numbers, are rounded by themselves, so that slices become the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bitsandbytes  # noqa: F401  # it brings the operations
import torch
from torch.utils._python_dispatch import TorchDispatchMode

SLICE = 2**16
"""numbers of a slice: a multiple of each size of blocks, and of the two numbers in a byte"""
FOUR_BITS = torch.ops.bitsandbytes.quantize_4bit.default
EIGHT_BITS = torch.ops.bitsandbytes.int8_vectorwise_quant.default


class Slices(TorchDispatchMode):
    """Quantizes in slices in a ``with`` block, on a CPU.

    It leaves the operations of bitsandbytes as they are. torch would remember a function that takes the place of one,
    and would call it in other modes too, after the block.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Do an operation; return what it returns."""
        if func in IN_SLICES and args[0].device.type == "cpu" and args[0].numel() > SLICE:
            func = IN_SLICES[func]
        return func(*args, **(kwargs or {}))


def _four_bits(weight: torch.Tensor, *settings: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of a weight, and the largest number of each block."""
    parts = [FOUR_BITS(part, *settings, **named) for part in weight.reshape(-1).split(SLICE)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([largest for _, largest in parts])


def _eight_bits(weight: torch.Tensor, threshold: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Return the codes of a weight, the largest number of each row, and the columns with outliers."""
    if threshold > 0:  # a column has outliers if one of its rows has
        whole: tuple[torch.Tensor, torch.Tensor, Any] = EIGHT_BITS(weight, threshold)
        return whole
    parts = [EIGHT_BITS(part) for part in weight.split(max(SLICE // weight.shape[-1], 1))]
    return torch.cat([codes for codes, _, _ in parts]), torch.cat([largest for _, largest, _ in parts]), None


IN_SLICES = {FOUR_BITS: _four_bits, EIGHT_BITS: _eight_bits}
