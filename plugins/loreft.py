"""LoReFT: each layer's output is edited in a subspace of low rank.

The paper edits the first and the last tokens of the prompt. Here every token is edited, also those of the answer. The
arguments of a forward pass do not say where the prompt ends: labels are not given when answers are measured, and with
a cache a call sees a part of a row. An answer that is generated must get the logits that it gets in one forward pass.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from adapterzoo import Context, InsertMethod, Options, Problem, hookimpl, transformer_layers
from adapterzoo.methods.inserts import layer_problems

if TYPE_CHECKING:
    import torch
    from torch import nn


class LoreftOptions(Options):
    """The options of LoReFT."""

    r: int = Field(8, ge=1, description="rank of the edited subspace")


class Loreft(InsertMethod[LoreftOptions]):
    """Low-rank linear subspace representation finetuning."""

    name = "loreft"
    summary = "edits every token in a low-rank subspace"
    paper = "https://arxiv.org/abs/2404.03592"
    options = LoreftOptions
    learning_rate = 9e-4
    learning_rate_source = (
        "the authors' examples (pyreft, examples/loreft): LLaMA-7B, rank 8, all layers, 14 tokens edited"
    )
    size_option = "r"
    token_wise = True

    def problems(self, skeleton: Any, options: LoreftOptions, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        width = skeleton.config.hidden_size
        if options.r > width:
            return [Problem("r", f"is {options.r}, and this model has {width} features.", f"At most {width}.")]
        return layer_problems(skeleton, self.name)

    def inserts(self, model: Any, options: LoreftOptions) -> dict[str, nn.Module]:
        """See :meth:`InsertMethod.inserts`."""
        return {name: _edit()(model.config.hidden_size, options.r) for name in transformer_layers(model)}


@cache
def _edit() -> type[nn.Module]:
    import torch
    from torch import nn

    class Edit(nn.Module):
        """``h + R^T·(W·h + b - R·h)`` with W and R of shape (r, width), and orthonormal rows in R.

        It starts with W = R and b = 0, so that it changes nothing (``LoreftIntervention_IdentityInit`` in pyreft).
        """

        def __init__(self, width: int, r: int) -> None:
            super().__init__()
            self.basis = nn.Parameter(nn.init.orthogonal_(torch.empty(width, r)))
            self.source = nn.Linear(width, r)
            self.source.weight.data.copy_(self.directions().T)
            nn.init.zeros_(self.source.bias)

        def directions(self) -> torch.Tensor:
            """Return R^T, of shape (width, r): the columns of ``basis``, made orthonormal one after the other."""
            q, triangle = torch.linalg.qr(self.basis)
            return q * triangle.diagonal().sign()  # qr chooses signs freely; with these, R changes smoothly

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            directions = self.directions()
            return hidden + (self.source(hidden) - hidden @ directions) @ directions.T

    return Edit


@hookimpl
def adapterzoo_methods() -> list[Loreft]:
    """Return the methods of this file."""
    return [Loreft()]
