"""Quantize the weights of a model when it is loaded, and turn them back into ordinary ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def loading_arguments(quantization: str, dtype: torch.dtype, double: bool) -> dict[str, Any]:
    """Return the arguments by which transformers loads a model with a quantization.

    Args:
        quantization: name of the quantization.
        dtype: dtype of the computation.
        double: whether the constants of the quantization are quantized too.
    """
    from transformers import BitsAndBytesConfig

    if quantization == "none":
        return {}
    if quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=dtype,
        )
    }


def finish(model: nn.Module) -> None:
    """Bring quantized layers into their final state, so that no forward pass changes them.

    bitsandbytes repacks 4-bit weights in place at the first evaluation on a CPU. The backward pass of a later training
    would read them in the old layout, and give wrong gradients without an error. 8-bit layers move their scales at the
    first forward pass.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "init_8bit_state"):
            module.init_8bit_state()


def dequantize(model: Any, dtype: str) -> nn.Module:
    """Return a quantized model with ordinary layers, whose weights have the values of the quantized ones.

    Args:
        model: the model; it is changed.
        dtype: name of the dtype of the weights.
    """
    import torch

    plain: nn.Module = model.dequantize()
    return plain.to(getattr(torch, dtype))
