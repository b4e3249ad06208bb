"""Bottleneck adapters: small feed-forward networks behind each attention and each feed-forward block.

Two things differ from the paper. The up-projection starts at zero instead of near zero, so that training starts exactly
at the base model. The paper also trains the norms and the head of BERT; here the adapters alone are trained, as is
usual today, and a task's new head.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from adapterzoo import Context, InsertMethod, Options, Problem, block_ends, hookimpl
from adapterzoo.methods.inserts import block_problems

if TYPE_CHECKING:
    import torch
    from torch import nn


class BottleneckOptions(Options):
    """The options of bottleneck adapters."""

    size: int = Field(64, ge=1, description="number of features between the two projections of an adapter")


class Bottleneck(InsertMethod[BottleneckOptions]):
    """Bottleneck adapters."""

    name = "bottleneck"
    summary = "small networks behind every block"
    paper = "https://arxiv.org/abs/1902.00751"
    options = BottleneckOptions
    learning_rate = 3e-4
    learning_rate_source = (
        "the authors' README (google-research/adapter-bert, MRPC); the paper tries 3e-5, 3e-4 and 3e-3"
    )
    size_option = "size"
    token_wise = True

    def problems(self, skeleton: nn.Module, options: BottleneckOptions, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        return block_problems(skeleton, self.name)

    def inserts(self, model: Any, options: BottleneckOptions) -> dict[str, nn.Module]:
        """See :meth:`InsertMethod.inserts`."""
        return {name: _adapter()(model.config.hidden_size, options.size) for name in block_ends(model)}


@cache
def _adapter() -> type[nn.Module]:
    from torch import nn
    from torch.nn.functional import gelu

    class Adapter(nn.Module):
        """``h + U·gelu(D·h + c) + d`` with D of shape (size, width) and U of shape (width, size)."""

        def __init__(self, width: int, size: int) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
            nn.init.normal_(self.down.weight, std=width**-0.5)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(zero)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            change: torch.Tensor = self.up(gelu(self.down(hidden)))
            return hidden + change

    return Adapter


@hookimpl
def adapterzoo_methods() -> list[Bottleneck]:
    """Return the methods of this file."""
    return [Bottleneck()]
