"""The adapter method $name: plain low-rank adaptation. Put your idea in its place."""

from functools import cache

from pydantic import Field

from adapterzoo import LayerMethod, LinearOptions, features, hookimpl


class ${class_name}Options(LinearOptions):
    """What users may set in a recipe, beside target_modules."""

    r: int = Field(8, ge=1, description="rank of the update")


class $class_name(LayerMethod[${class_name}Options]):
    """What adapterzoo has to know; adapterzoo.Method says what else it may be told."""

    contract = $contract
    name = "$name"
    summary = "what it does to the model, in one line"
    paper = "https://arxiv.org/abs/0000.00000"
    options = ${class_name}Options
    learning_rate = 1e-3
    learning_rate_source = "who found it, and on what"
    size_option = "r"

    def layer(self, linear, options):
        return _layer()(linear, options)


# In a function: listing the methods must not wait for torch.
@cache
def _layer():
    import torch
    from torch import nn

    class Layer(nn.Module):
        """y = W·x + B·A·x, with A of shape (r, in) and B of shape (out, r)."""

        def __init__(self, linear, options):
            super().__init__()
            inner, outer = features(linear)
            self.base = linear
            self.a = nn.Parameter(torch.randn(options.r, inner) / inner**0.5)
            self.b = nn.Parameter(torch.zeros(outer, options.r))

        def forward(self, x):
            answer = self.base(x)
            return answer + (x.to(self.a.dtype) @ self.a.T @ self.b.T).to(answer.dtype)

        def update(self):
            """What it adds to the weight, for merging; if it cannot, say merges = () above."""
            return self.b @ self.a

    return Layer


@hookimpl
def adapterzoo_methods():
    return [$class_name()]
