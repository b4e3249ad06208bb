"""HQQ, half-quadratic quantization: 2, 3, 4 or 8 bits in groups of 64, without data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from adapterzoo import Quantization, hookimpl
from adapterzoo.quantizations.contract import LoadSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

GROUP = 64
TRIED = 4
"""number of bits on which every method was tried"""


class Hqq(Quantization):
    """Codes in groups of 64 weights, whose zero points are optimized to lose little of the weights.

    transformers 5 loads HQQ no more (its quantizer does not say how to quantize a weight), so hqq itself quantizes the
    loaded model.
    """

    packages = ("hqq",)
    extra = "hqq"
    bits: ClassVar[int]

    def quantize(self, model: nn.Module, load: LoadSettings) -> None:
        """See :meth:`Quantization.quantize`."""
        from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
        from torch import nn

        from adapterzoo.methods.targets import linear_layers

        settings = BaseQuantizeConfig(nbits=self.bits, group_size=GROUP, axis=1)
        for name, layer in linear_layers(model).items():
            if isinstance(layer, nn.Linear) and not _skipped(name, load.skip):
                device = str(layer.weight.device)
                quantized = HQQLinear(layer, settings, compute_dtype=load.dtype, device=device)
                for parameter in quantized.parameters():
                    parameter.requires_grad_(False)
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, quantized.train(model.training))

    def is_layer(self, module: nn.Module) -> bool:
        """See :meth:`Quantization.is_layer`."""
        return type(module).__name__ == "HQQLinear"

    def hidden_parameters(self, module: nn.Module) -> int:
        """See :meth:`Quantization.hidden_parameters`: an element stores several parameters."""
        layer: Any = module
        return layer.in_features * layer.out_features - layer.W_q.numel() if self.is_layer(module) else 0

    def dequantize(self, model: Any, dtype: torch.dtype) -> nn.Module:
        """See :meth:`Quantization.dequantize`."""
        from torch import nn

        layers = {name: module for name, module in model.named_modules() if self.is_layer(module)}
        for name, layer in layers.items():
            weight = layer.dequantize().detach()
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta")
            plain.weight = nn.Parameter(weight, requires_grad=False)
            if layer.bias is not None:
                plain.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, plain)
        whole: nn.Module = model.to(dtype)
        return whole


class OfBits(Hqq):
    """HQQ with a number of bits."""

    def __init__(self, bits: int, bytes_per_parameter: float) -> None:
        self.name = f"hqq{bits}"  # type: ignore[misc]  # other quantizations set it on the class
        self.summary = f"{bits} bits in groups of {GROUP}, chosen without data (HQQ)"  # type: ignore[misc]
        self.same_layers = None if bits == TRIED else f"hqq{TRIED}"  # type: ignore[misc]
        self.bits = bits  # type: ignore[misc]
        self.bytes_per_parameter = bytes_per_parameter  # type: ignore[misc]


def _skipped(name: str, skip: Any) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in skip or ())


@hookimpl
def adapterzoo_quantizations() -> list[Quantization]:
    """Return the quantizations of this file."""
    return [OfBits(2, 0.32), OfBits(3, 0.47), OfBits(4, 0.57), OfBits(8, 1.07)]
