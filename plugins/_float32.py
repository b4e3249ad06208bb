"""For methods whose parameters PEFT leaves in the base's precision: they are trained in float32 all the same.

A weight near 1 in bfloat16 moves in steps of 1/128; an update of a thousandth rounds to nothing, and training does
nothing in silence.
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
    """A PEFT method that trains in float32 over any base."""

    token_wise = True

    def trained_modules(self, model: nn.Module) -> Iterator[nn.Module]:
        """The modules whose own parameters are trained, in a wrapped model."""
        raise NotImplementedError

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        wrapped = super().wrap(model, options, context)
        self._raise(wrapped)
        return wrapped

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """See :meth:`Method.load`."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        wrapped = super().load(model, folder)
        self._raise(wrapped)
        # Once more: the first time what was saved was rounded.
        set_peft_model_state_dict(wrapped, load_file(folder / "adapter_model.safetensors"))
        return wrapped

    def _raise(self, model: nn.Module) -> None:
        for module in self.trained_modules(model):
            dtypes = {parameter.dtype for parameter in module.parameters(recurse=False)}
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
            compute_in(module, dtypes.pop())


def compute_in(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Make a module whose weights are float32 compute in another precision; returns it."""
    import torch

    inner = module.forward

    def forward(*arguments: Any, **keywords: Any) -> Any:
        with torch.autocast(next(module.parameters()).device.type, dtype):
            return inner(*arguments, **keywords)

    if dtype != torch.float32:
        module.forward = forward
    return module
