"""The weight-only quantizations of torchao: int8, float8 and int4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from adapterzoo import Quantization, hookimpl
from adapterzoo.quantizations.contract import Code, LoadSettings, Reason

if TYPE_CHECKING:
    import torch
    from torch import nn


class Torchao(Quantization):
    """A weight-only quantization of torchao: the layers stay torch's, and their weights are tensors of torchao."""

    packages: ClassVar[Sequence[str]] = ("torchao",)
    extra = "torchao"
    kind: ClassVar[str]
    """name of torchao's class for its configuration"""

    def config(self, load: LoadSettings) -> Any:
        """See :meth:`Quantization.config`."""
        from torchao import quantization
        from transformers import TorchAoConfig

        skip = None if load.skip is None else [*load.skip]
        return TorchAoConfig(getattr(quantization, self.kind)(), modules_to_not_convert=skip)

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        """See :meth:`Quantization.recognises`."""
        kind = saved.get("quant_type")
        default = kind.get("default") if isinstance(kind, Mapping) else None
        return (
            saved.get("quant_method") == "torchao"
            and isinstance(default, Mapping)
            and default.get("_type") == self.kind
        )

    def dequantize(self, model: Any, dtype: torch.dtype) -> nn.Module:
        """See :meth:`Quantization.dequantize`."""
        from torch import nn
        from torchao.utils import TorchAOBaseTensor

        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Linear) and isinstance(weight, TorchAOBaseTensor):
                module.weight = nn.Parameter(weight.dequantize().detach().to(dtype), requires_grad=False)
                module.__dict__.pop("extra_repr", None)  # that of torchao's layers
        model.hf_quantizer.remove_quantization_config(model)
        plain: nn.Module = model.to(dtype)
        return plain

    def code(self, dtype: str, double: bool) -> Code:
        """See :meth:`Quantization.code`."""
        line = f"from torchao.quantization import {self.kind}"
        return Code(f"TorchAoConfig({self.kind}())", "TorchAoConfig", [line])


class Int8(Torchao):
    """8-bit integers with a scale for each row; what goes into a layer is not rounded."""

    name = "torchao-int8"
    summary = "8-bit integers, a scale for each row; inputs are not rounded (torchao)"
    bits = 8
    bytes_per_parameter = 1.01
    kind = "Int8WeightOnlyConfig"


class Float8(Torchao):
    """8-bit floating-point numbers (4 bits of exponent, 3 of mantissa) with a scale for each row."""

    name = "torchao-float8"
    summary = "8-bit floating-point numbers, a scale for each row (torchao)"
    bits = 8
    bytes_per_parameter = 1.01
    kind = "Float8WeightOnlyConfig"


class Int4(Torchao):
    """4-bit integers in groups of 128."""

    name = "torchao-int4"
    summary = "4-bit integers in groups of 128, on GPUs (torchao)"
    bits = 4
    bytes_per_parameter = 0.53
    packages = ("torchao", "mslk")
    kind = "Int4WeightOnlyConfig"

    def why_not_here(self) -> Reason | None:
        """See :meth:`Quantization.why_not_here`."""
        if find_spec("mslk") is not None:
            return super().why_not_here()
        what = "needs a GPU and mslk: torchao has no 4-bit layout for CPUs."
        return Reason(what, "Choose nf4, fp4 or hqq4, which have 4 bits on a CPU too.")


@hookimpl
def adapterzoo_quantizations() -> list[Quantization]:
    """Return the quantizations of this file."""
    return [Int8(), Float8(), Int4()]
