"""LoRA written in plain torch, without PEFT: the example of a method with its own layer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pydantic import Field

from adapterzoo import LayerMethod, LinearOptions, features, hookimpl

if TYPE_CHECKING:
    import torch
    from torch import nn


class LoraScratchOptions(LinearOptions):
    """The options of LoRA from scratch."""

    r: int = Field(8, ge=1, description="rank of the update")
    lora_alpha: float = Field(32.0, gt=0, description="the update is scaled by lora_alpha / r")


class LoraScratch(LayerMethod[LoraScratchOptions]):
    """Low-rank adaptation, from scratch."""

    name = "lora-scratch"
    summary = "LoRA in plain torch, without PEFT"
    paper = "https://arxiv.org/abs/2106.09685"
    group = "low-rank"
    options = LoraScratchOptions
    learning_rate = 3e-4
    learning_rate_source = "the rate of lora, because the two train the same weights"
    size_option = "r"
    token_wise = True

    def layer(self, linear: nn.Module, options: LoraScratchOptions) -> nn.Module:
        """See :meth:`LayerMethod.layer`."""
        return _layer()(linear, options)


@cache
def _layer() -> type[nn.Module]:
    import math

    import torch
    from torch import nn

    class LoraLinear(nn.Module):
        """``y = W·x + s·B·A·x`` with A of shape (r, in), B of shape (out, r), s = lora_alpha / r."""

        def __init__(self, linear: nn.Module, options: LoraScratchOptions) -> None:
            super().__init__()
            inputs, outputs = features(linear)
            self.base = linear
            self.a = nn.Parameter(torch.empty(options.r, inputs))
            self.b = nn.Parameter(torch.zeros(outputs, options.r))
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
            self.scale = options.lora_alpha / options.r

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            update = x.to(self.a.dtype) @ self.a.T @ self.b.T * self.scale
            output: torch.Tensor = self.base(x)
            return output + update.to(output.dtype)

        def update(self) -> torch.Tensor:
            return self.b @ self.a * self.scale

    return LoraLinear


@hookimpl
def adapterzoo_methods() -> list[LoraScratch]:
    """Return the methods of this file."""
    return [LoraScratch()]
