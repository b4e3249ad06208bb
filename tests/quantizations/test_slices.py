"""Check that weights quantized in slices are those that bitsandbytes makes of whole weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from adapterzoo_plugins.quantizations._slices import SLICE
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_quant, quantize_4bit
from torch.utils._python_dispatch import TorchDispatchMode

from adapterzoo.quantizations.registry import quantizations


@pytest.mark.parametrize("shape", [(300, 640), (1, SLICE + 40), (2, 3)])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_slices_are_the_same_to_the_bit(shape: tuple[int, int], kind: str, double: bool) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()

    def quantized(storage: torch.dtype) -> list[torch.Tensor]:
        codes, state = quantize_4bit(weight, compress_statistics=double, quant_type=kind, quant_storage=storage)
        return [codes, state.absmax, dequantize_4bit(codes, state)]

    storages = (torch.uint8, torch.bfloat16) if weight.numel() % 4 == 0 else (torch.uint8,)
    for storage in storages:
        expected = quantized(storage)
        with quantizations()[kind].while_loading():
            found = quantized(storage)
        for tensor, other in zip(found, expected, strict=True):
            assert torch.equal(tensor.view(torch.uint8), other.view(torch.uint8))


def test_slices_of_rows_are_the_same_to_the_bit() -> None:
    weight = torch.randn((300, 640), generator=torch.Generator().manual_seed(0)).half()
    expected = int8_vectorwise_quant(weight)
    with quantizations()["int8"].while_loading():
        found = int8_vectorwise_quant(weight)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[2] is expected[2] is None


def test_other_modes_see_the_operations_themselves() -> None:
    """A function took the place of the operation. torch remembered it, and a later mode that called it crashed."""
    seen = list[object]()

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    weight = torch.ones(300, 640)
    for block in (quantizations()["nf4"].while_loading(), nullcontext()):
        with Seeing(), block:
            quantize_4bit(weight)
        operations = [func for func in seen if "quantize_4bit" in str(func)]
        assert set(operations) == {torch.ops.bitsandbytes.quantize_4bit.default}
    assert len(operations) == -(-weight.numel() // SLICE) + 1, "only while a model is loaded"
