"""BitFit: only the biases are trained.

In a model that has biases in its linear layers and norms, like BERT, GPT-2 or GPT-NeoX, exactly these are trained. A
model without any, like Llama or T5, gets a bias in each linear layer, which starts at zero. Such a bias cannot be
merged, because the base model has no place for it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from adapterzoo import InsertMethod, Options, features, hookimpl, linear_layers

if TYPE_CHECKING:
    import torch
    from torch import nn


class Bitfit(InsertMethod[Options]):
    """Bias-term fine-tuning."""

    name = "bitfit"
    summary = "trains biases, and adds them if there are none"
    paper = "https://arxiv.org/abs/2106.10199"
    group = "sparse and scaling"
    options = Options
    learning_rate = 1e-3
    learning_rate_source = "the authors' README (benzakenelad/BitFit), BERT-base on RTE"
    token_wise = True

    def inserts(self, model: nn.Module, options: Options) -> dict[str, nn.Module]:
        """See :meth:`InsertMethod.inserts`."""
        linear = linear_layers(model)
        norms = {name: norm for name, norm in model.named_modules() if type(norm).__name__.endswith("Norm")}
        biases = {
            name: bias.numel()
            for name, module in {**linear, **norms}.items()
            if (bias := getattr(module, "bias", None)) is not None
        }
        sizes = biases or {name: features(layer)[1] for name, layer in linear.items()}
        return {name: _bias()(size) for name, size in sizes.items()}


@cache
def _bias() -> type[nn.Module]:
    import torch
    from torch import nn

    class Bias(nn.Module):
        """The change of a bias; it is float32 even if the bias itself is stored in bfloat16."""

        def __init__(self, size: int) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(size))

        def forward(self, output: torch.Tensor) -> torch.Tensor:
            return output + self.bias

    return Bias


@hookimpl
def adapterzoo_methods() -> list[Bitfit]:
    """Return the methods of this file."""
    return [Bitfit()]
