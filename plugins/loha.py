"""LoHa: the update is the element-wise product of two low-rank matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from adapterzoo import Context, LinearOptions, PeftMethod, hookimpl

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn


class LohaOptions(LinearOptions):
    """The options of LoHa."""

    r: int = Field(4, ge=1, description="rank of each factor; as many parameters as LoRA of rank 2r")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")
    rank_dropout: float = Field(0.0, ge=0, lt=1, description="share of output features left out of a step")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="share of layers left out of a step")


class Loha(PeftMethod[LohaOptions]):
    """Low-rank Hadamard product."""

    name = "loha"
    summary = "element-wise product of low-rank updates"
    paper = "https://arxiv.org/abs/2108.06098"
    group = "low-rank"
    options = LohaOptions
    learning_rate = 5e-4
    learning_rate_source = "LyCORIS (arXiv 2309.14859, appendix D.2), on images; no tuned rate for text is published"
    size_option = "r"
    token_wise = True

    @contextmanager
    def layers(self) -> Iterator[None]:
        """See :meth:`PeftMethod.layers`."""
        from adapterzoo_plugins._lycoris import linear_layer
        from peft import LoHaModel

        with linear_layer(LoHaModel, _layer()):
            yield

    def peft_config(self, model: nn.Module, options: LohaOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import LoHaConfig

        return LoHaConfig(**options.model_dump())


@cache
def _layer() -> type[nn.Module]:
    from adapterzoo_plugins._lycoris import drop_rows
    from peft.tuners.loha.layer import Linear as PeftLinear
    from torch.nn import functional

    class Linear(PeftLinear):
        """PEFT's layer, computed with its factors.

        The update (A·B) ∘ (C·D), with factors of rank r, is also the product (A⊙C)·(B⊙D), with factors of rank r².
        """

        def create_adapter_parameters(self, adapter_name: str, r: int, shape: tuple[int, ...]) -> None:
            super().create_adapter_parameters(adapter_name, r, (self.out_features, self.in_features))

        def _get_delta_activations(
            self, adapter_name: str, input: torch.Tensor, *args: Any, **kwargs: Any
        ) -> torch.Tensor:
            a, b = self.hada_w1_a[adapter_name], self.hada_w1_b[adapter_name]
            c, d = self.hada_w2_a[adapter_name], self.hada_w2_b[adapter_name]
            input = self._cast_input_dtype(input, a.dtype)
            if self.r[adapter_name] ** 2 * (1 / self.in_features + 1 / self.out_features) < 1:
                right = (b.unsqueeze(1) * d.unsqueeze(0)).flatten(0, 1)  # (r², in)
                left = (a.unsqueeze(2) * c.unsqueeze(1)).flatten(1, 2)  # (out, r²)
                update = functional.linear(functional.linear(input, right), left)
            else:  # the whole update is smaller than its factors of rank r²
                update = functional.linear(input, (a @ b) * (c @ d))
            if self.training and self.rank_dropout[adapter_name]:
                update = drop_rows(update, self.rank_dropout[adapter_name], rescale=True)
            return update * self.scaling[adapter_name]

    return Linear


@hookimpl
def adapterzoo_methods() -> list[Loha]:
    """Return the methods of this file."""
    return [Loha()]
