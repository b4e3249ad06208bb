"""No quantization: the weights of the base model stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo import Quantization, hookimpl
from adapterzoo.quantizations.contract import NONE

if TYPE_CHECKING:
    import torch
    from torch import nn


class Unquantized(Quantization):
    """Weights in the recipe's dtype."""

    name = NONE
    summary = "weights in the recipe's dtype"
    bits = 16

    def dequantize(self, model: Any, dtype: torch.dtype) -> nn.Module:
        """See :meth:`Quantization.dequantize`."""
        plain: nn.Module = model.to(dtype)
        return plain


@hookimpl
def adapterzoo_quantizations() -> list[Quantization]:
    """Return the quantizations of this file."""
    return [Unquantized()]
