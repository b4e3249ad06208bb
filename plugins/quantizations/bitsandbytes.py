"""The quantizations of bitsandbytes: 8 bits (LLM.int8), and 4 bits (nf4 and fp4)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from adapterzoo import Quantization, hookimpl
from adapterzoo.quantizations.contract import Code, LoadSettings

if TYPE_CHECKING:
    import torch
    from torch import nn


class BitsAndBytes(Quantization):
    """What the quantizations of bitsandbytes share."""

    packages = ("bitsandbytes",)

    def while_loading(self) -> AbstractContextManager[None]:
        """See :meth:`Quantization.while_loading`."""
        from adapterzoo_plugins.quantizations._slices import Slices

        slices: AbstractContextManager[None] = Slices()
        return slices

    def dequantize(self, model: Any, dtype: torch.dtype) -> nn.Module:
        """See :meth:`Quantization.dequantize`."""
        plain: nn.Module = model.dequantize()
        # transformers leaves these marks, and PEFT's IA3 refuses to merge into a model that has one.
        for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
            vars(plain).pop(mark, None)
        return plain.to(dtype)


class EightBits(BitsAndBytes):
    """LLM.int8: rows of the weight in 8 bits, and what goes into a layer too, but for its outliers."""

    name = "int8"
    summary = "8 bits, rounded by rows (LLM.int8 of bitsandbytes)"
    bits = 8
    bytes_per_parameter = 1.01
    batch_dependent = True
    rounded_inputs = 0.05

    def config(self, load: LoadSettings) -> Any:
        """See :meth:`Quantization.config`."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=load.skip)

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        """See :meth:`Quantization.recognises`."""
        return bool(saved.get("load_in_8bit"))

    def finish(self, model: nn.Module) -> None:
        """See :meth:`Quantization.finish`: 8-bit layers would move their scales at the first forward pass."""
        for module in model.modules():
            if hasattr(module, "init_8bit_state"):
                module.init_8bit_state()

    def code(self, dtype: str, double: bool) -> Code:
        """See :meth:`Quantization.code`."""
        return Code("BitsAndBytesConfig(load_in_8bit=True)", "BitsAndBytesConfig")


class NormalFloat(BitsAndBytes):
    """Blocks of 64 weights in 4 bits, with the 16 levels of a normal distribution."""

    name = "nf4"
    summary = "4 bits, at the levels of a normal distribution (bitsandbytes, as in QLoRA)"
    levels: ClassVar[str] = "nf4"
    """bitsandbytes' name for the 16 numbers that a code stands for"""
    bits = 4
    bytes_per_parameter = 0.52

    def config(self, load: LoadSettings) -> Any:
        """See :meth:`Quantization.config`."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.levels,
            bnb_4bit_use_double_quant=load.double,
            bnb_4bit_compute_dtype=load.dtype,
            llm_int8_skip_modules=load.skip,
        )

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        """See :meth:`Quantization.recognises`."""
        return bool(saved.get("load_in_4bit")) and saved.get("bnb_4bit_quant_type", "fp4") == self.levels

    def finish(self, model: nn.Module) -> None:
        """See :meth:`Quantization.finish`.

        bitsandbytes repacks 4-bit weights in place at the first evaluation on a CPU. The backward pass of a later
        training would read them in the old layout, and give wrong gradients without an error.
        """
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False

    def hidden_parameters(self, module: nn.Module) -> int:
        """See :meth:`Quantization.hidden_parameters`: an element stores two parameters."""
        weight: Any = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        return 0 if state is None else int(state.shape.numel() - weight.numel())

    def code(self, dtype: str, double: bool) -> Code:
        """See :meth:`Quantization.code`."""
        options = {
            "load_in_4bit": "True",
            "bnb_4bit_quant_type": repr(self.levels),
            "bnb_4bit_use_double_quant": str(double),
            "bnb_4bit_compute_dtype": dtype,
        }
        lines = "".join(f"        {name}={value},\n" for name, value in options.items())
        return Code(f"BitsAndBytesConfig(\n{lines}    )", "BitsAndBytesConfig")


class FloatingPoint(NormalFloat):
    """Blocks of 64 weights in 4 bits, with the 16 levels of a floating-point number."""

    name = "fp4"
    summary = "4 bits, at the levels of a floating-point number (bitsandbytes)"
    levels = "fp4"
    same_layers = "nf4"


@hookimpl
def adapterzoo_quantizations() -> list[Quantization]:
    """Return the quantizations of this file."""
    return [EightBits(), NormalFloat(), FloatingPoint()]
