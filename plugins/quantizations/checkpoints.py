"""The quantizations of models that come quantized, which no recipe can ask for.

Some of them are undone while transformers loads the model: its layers are then ordinary ones in the recipe's dtype, and
every method trains on them. GPTQ and AWQ keep their codes, in layers of gptqmodel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from adapterzoo import Quantization, hookimpl
from adapterzoo.quantizations.contract import NONE, LoadSettings

if TYPE_CHECKING:
    import torch
    from torch import nn


class OfCheckpoint(Quantization):
    """What the quantizations of models that come quantized share."""

    only_checkpoints = True
    quant_method: ClassVar[str]
    """its name in config.json"""

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        """See :meth:`Quantization.recognises`."""
        return saved.get("quant_method") == self.quant_method


class Undone(OfCheckpoint):
    """A quantization that is undone while the model is loaded."""

    same_layers = NONE
    config_class: ClassVar[str]
    """name of the class of transformers for its configuration"""

    def checkpoint_config(self, saved: Mapping[str, Any], load: LoadSettings) -> Any:
        """See :meth:`Quantization.checkpoint_config`."""
        import transformers

        kind = getattr(transformers, self.config_class)
        return kind.from_dict({**saved, "dequantize": True})

    def dequantize(self, model: Any, dtype: torch.dtype) -> nn.Module:
        """See :meth:`Quantization.dequantize`: nothing is left to undo."""
        plain: nn.Module = model.to(dtype)
        return plain


class Mxfp4(Undone):
    """The experts of gpt-oss: 4-bit floating-point numbers with a scale for each block of 32."""

    name = quant_method = "mxfp4"
    summary = "4-bit floating-point numbers in blocks (gpt-oss); undone while the model is loaded"
    bits = 4
    config_class = "Mxfp4Config"


class FineGrainedFp8(Undone):
    """Weights in 8-bit floating-point numbers with a scale for each square of 128 by 128."""

    name = "fine-grained-fp8"
    quant_method = "fp8"
    summary = "8-bit floating-point numbers in squares (DeepSeek, Qwen); undone while the model is loaded"
    bits = 8
    config_class = "FineGrainedFP8Config"


class CompressedTensors(Undone):
    """Whatever llm-compressor wrote: int4, int8, fp8 and others."""

    name = quant_method = "compressed-tensors"
    summary = "what llm-compressor writes, in 4 or 8 bits; undone while the model is loaded"
    bits = 8
    packages = ("compressed_tensors",)
    extra = "compressed-tensors"
    config_class = "CompressedTensorsConfig"


class Packed(OfCheckpoint):
    """A quantization whose layers are those of gptqmodel."""

    bits = 4
    bytes_per_parameter = 0.53
    packages: ClassVar[Sequence[str]] = ("optimum", "gptqmodel")
    config_class: ClassVar[str]
    """name of the class of transformers for its configuration"""

    def checkpoint_config(self, saved: Mapping[str, Any], load: LoadSettings) -> Any:
        """See :meth:`Quantization.checkpoint_config`: of the kernels for these codes, not all have a backward pass."""
        import transformers

        return getattr(transformers, self.config_class).from_dict({**saved, "backend": "auto_trainable"})

    def is_layer(self, module: nn.Module) -> bool:
        """See :meth:`Quantization.is_layer`."""
        return any(kind.__name__ == "BaseQuantLinear" for kind in type(module).__mro__)

    def hidden_parameters(self, module: nn.Module) -> int:
        """See :meth:`Quantization.hidden_parameters`: nothing in these layers is a parameter of torch."""
        layer: Any = module
        return layer.in_features * layer.out_features + _length(layer.bias) if self.is_layer(module) else 0

    def dequantize(self, model: Any, dtype: torch.dtype) -> nn.Module:
        """See :meth:`Quantization.dequantize`."""
        for name, layer in [(name, module) for name, module in model.named_modules() if self.is_layer(module)]:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _plain(layer, dtype))
        model.hf_quantizer.remove_quantization_config(model)
        plain: nn.Module = model.to(dtype)
        return plain


class Gptq(Packed):
    """GPTQ: codes that were chosen one after the other, each to undo the errors of those before."""

    name = quant_method = "gptq"
    summary = "codes that correct each other's errors, mostly of 4 bits (GPTQ)"
    config_class = "GPTQConfig"


class Awq(Packed):
    """AWQ: codes of weights that were scaled before, so that the important ones lose least."""

    name = quant_method = "awq"
    summary = "4 bits, after important weights were scaled (AWQ)"
    packages = ("gptqmodel",)
    config_class = "AwqConfig"


def _length(bias: torch.Tensor | None) -> int:
    return 0 if bias is None else bias.numel()


def _plain(layer: Any, dtype: torch.dtype) -> nn.Module:
    """Return the ordinary layer that computes the same as one of gptqmodel's."""
    import torch
    from torch import nn

    layer.bias, bias = None, layer.bias
    with torch.no_grad():  # the rows of the identity give the columns of the weight, however it is packed
        weight = layer(torch.eye(layer.in_features, dtype=dtype, device=layer.qweight.device)).T.contiguous()
    plain = nn.Linear(layer.in_features, layer.out_features, bias is not None, "meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return plain


@hookimpl
def adapterzoo_quantizations() -> list[Quantization]:
    """Return the quantizations of this file."""
    return [Mxfp4(), FineGrainedFp8(), CompressedTensors(), Gptq(), Awq()]
