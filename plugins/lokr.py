"""LoKr: the update is the Kronecker product of a small matrix and a low-rank one."""

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


class LokrOptions(LinearOptions):
    """The options of LoKr."""

    r: int = Field(32, ge=1, description="rank of the larger factor")
    alpha: float = Field(64.0, gt=0, description="the update is scaled by alpha / r")
    decompose_factor: int = Field(
        4, ge=-1, description="size of the smaller factor, if it divides the layer's size; -1: factors of similar size"
    )
    decompose_both: bool = Field(False, description="make the smaller factor low-rank as well")
    rank_dropout: float = Field(0.0, ge=0, lt=1, description="share of output features left out of a step")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="share of layers left out of a step")


class Lokr(PeftMethod[LokrOptions]):
    """Low-rank Kronecker product."""

    name = "lokr"
    summary = "Kronecker product of two small factors"
    paper = "https://arxiv.org/abs/2309.14859"
    group = "low-rank"
    options = LokrOptions
    learning_rate = 3e-3
    learning_rate_source = "PEFT's method comparison (lokr/llama-3.2-3B-rank32-factor4-lr0.003), with its r and alpha"
    size_option = "r"
    token_wise = True

    @contextmanager
    def layers(self) -> Iterator[None]:
        """See :meth:`PeftMethod.layers`."""
        from adapterzoo_plugins._lycoris import linear_layer
        from peft import LoKrModel

        with linear_layer(LoKrModel, _layer()):
            yield

    def peft_config(self, model: nn.Module, options: LokrOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import LoKrConfig

        return LoKrConfig(**options.model_dump())

    def findings(self, model: Any) -> dict[str, Any]:
        """Return the sizes that PEFT changed silently in layers too small for r or not divisible by the factor."""
        config = model.peft_config["default"]
        layers = [module for module in model.modules() if hasattr(module, "lokr_w2")]
        full_rank = sum("default" in layer.lokr_w2 for layer in layers)
        factor = config.decompose_factor
        shapes = [tuple(layer.lokr_w1["default"].shape) for layer in layers if "default" in layer.lokr_w1]
        changed = sum(shape != (factor, factor) for shape in shapes) if factor > 0 else 0
        adjusted = {}
        if full_rank:
            adjusted["r"] = f"{config.r} -> full rank in {full_rank} of {len(layers)} layers, which are too small"
        whole = sum("default" in layer.lokr_w1 for layer in layers)
        if config.decompose_both and whole:
            adjusted["decompose_both"] = (
                f"True -> False in {whole} of {len(layers)} layers, where r is too large for it"
            )
        if changed:
            adjusted["decompose_factor"] = f"{factor} -> another value in {changed} of {len(layers)} layers"
        return {"adjusted": adjusted} if adjusted else {}


@cache
def _layer() -> type[nn.Module]:
    from adapterzoo_plugins._lycoris import drop_rows
    from peft.tuners.lokr.layer import Linear as PeftLinear
    from torch.nn import functional

    def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        # Use a matrix, because with four dimensions torch uses other kernels for a weight that is not trained, and
        # a loaded adapter would round differently from the one that was measured.
        matrix: torch.Tensor = functional.linear(x.reshape(-1, x.size(-1)), weight)
        return matrix.unflatten(0, x.shape[:-1])

    class Linear(PeftLinear):
        """PEFT's layer, computed with its factors: (W1 ⊗ W2)·x = W1·X·W2ᵀ, with x reshaped to a matrix X."""

        def _get_delta_activations(
            self, adapter_name: str, input: torch.Tensor, *args: Any, **kwargs: Any
        ) -> torch.Tensor:
            if adapter_name in self.lokr_w1:
                small = self.lokr_w1[adapter_name]
            else:
                small = self.lokr_w1_a[adapter_name] @ self.lokr_w1_b[adapter_name]
            x = self._cast_input_dtype(input, small.dtype).unflatten(-1, (small.size(1), -1))
            if adapter_name in self.lokr_w2:
                x = linear(x, self.lokr_w2[adapter_name])
                x = linear(x.transpose(-1, -2), small).transpose(-1, -2)
            else:
                x = linear(x, self.lokr_w2_b[adapter_name])
                x = linear(x.transpose(-1, -2), small).transpose(-1, -2)
                x = linear(x, self.lokr_w2_a[adapter_name])
            update = x.flatten(-2)
            if self.training and self.rank_dropout[adapter_name]:
                rescale = self.rank_dropout_scale[adapter_name]
                update = drop_rows(update, self.rank_dropout[adapter_name], rescale=rescale)
            return update * self.scaling[adapter_name]

    return Linear


@hookimpl
def adapterzoo_methods() -> list[Lokr]:
    """Return the methods of this file."""
    return [Lokr()]
