"""Train in float32 the parameters that PEFT leaves in the precision of the base model.

A bfloat16 weight near 1 can only change in steps of 1/128. An update of a thousandth would round to nothing, and
training would have no effect, without any message.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo import Context, PeftMethod
from adapterzoo.methods.contract import OptionsT

if TYPE_CHECKING:
    import torch
    from torch import nn


class Float32Method(PeftMethod[OptionsT]):
    """A PEFT method that trains in float32, whatever the precision of the base model."""

    token_wise = True

    def trained_modules(self, model: nn.Module) -> Iterator[nn.Module]:
        """Return the modules of a wrapped model whose own parameters are trained."""
        raise NotImplementedError

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        wrapped = super().wrap(model, options, context)
        self._to_float32(wrapped)
        return wrapped

    def load(self, model: nn.Module, folder: Path, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.load`."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        wrapped = super().load(model, folder, options, context)
        self._to_float32(wrapped)
        # Load the weights again, because the first time they were rounded to the base's precision.
        set_peft_model_state_dict(wrapped, load_file(folder / "adapter_model.safetensors"))
        return wrapped

    def _to_float32(self, model: nn.Module) -> None:
        for module in self.trained_modules(model):
            dtypes = {parameter.dtype for parameter in module.parameters(recurse=False)}
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
            compute_in(module, dtypes.pop())


def compute_in(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Make a module with float32 weights compute in another precision, and return it."""
    import torch

    inner = module.forward

    def forward(*arguments: Any, **keywords: Any) -> Any:
        with torch.autocast(next(module.parameters()).device.type, dtype):
            return inner(*arguments, **keywords)

    if dtype != torch.float32:
        module.forward = forward
    return module
