"""Quantize weights in slices on a CPU.

There, bitsandbytes needs 8 to 16 bytes for each number of a weight while it quantizes it, of which one or a half is
left. Rows, or blocks of 64 numbers, are rounded by themselves, so that slices become the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch

SLICE = 2**16
"""numbers of a slice: a multiple of each size of blocks, and of the two numbers in a byte"""


@contextmanager
def quantizing_in_slices() -> Iterator[None]:
    """Let bitsandbytes quantize in slices in a ``with`` block, on a CPU."""
    import bitsandbytes  # noqa: F401  # it brings the operations
    import torch

    operations = torch.ops.bitsandbytes
    with (
        mock.patch.object(operations, "quantize_4bit", _Blocks(operations.quantize_4bit)),
        mock.patch.object(operations, "int8_vectorwise_quant", _Rows(operations.int8_vectorwise_quant)),
    ):
        yield


class _Blocks:
    """The operation of bitsandbytes for 4 bits, in slices."""

    def __init__(self, operation: Any) -> None:
        self._operation = operation

    def default(self, weight: torch.Tensor, *settings: Any) -> Any:
        """Return the codes of a weight, and the largest number of each block."""
        import torch

        if weight.device.type != "cpu" or weight.numel() <= SLICE:
            return self._operation.default(weight, *settings)
        parts = [self._operation.default(part, *settings) for part in weight.reshape(-1).split(SLICE)]
        return torch.cat([codes for codes, _ in parts]), torch.cat([largest for _, largest in parts])


class _Rows:
    """The operation of bitsandbytes for 8 bits, in slices."""

    def __init__(self, operation: Any) -> None:
        self._operation = operation

    def default(self, weight: torch.Tensor, threshold: float = 0.0) -> Any:
        """Return the codes of a weight, the largest number of each row, and nothing about outliers."""
        import torch

        if weight.device.type != "cpu" or weight.numel() <= SLICE or threshold > 0:
            return self._operation.default(weight, threshold)
        rows = max(SLICE // weight.shape[-1], 1)
        parts = [self._operation.default(part, threshold) for part in weight.split(rows)]
        return torch.cat([codes for codes, _, _ in parts]), torch.cat([largest for _, largest, _ in parts]), None
