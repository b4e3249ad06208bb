"""Sound methods, which the wrong ones change in a line or two."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from adapterzoo import Context, LayerMethod, LinearOptions, Method, PeftMethod, features
from adapterzoo.methods.targets import is_linear, targeted


class LowRankOptions(LinearOptions):
    r: int = Field(8, ge=1, description="rank of the update")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")


class LowRank(LayerMethod[LowRankOptions]):
    """Low-rank adaptation: ``y = W·x + alpha/r·B·A·x``."""

    name = "wrong-none-low-rank"
    summary = "nothing: low-rank updates in plain torch"
    paper = "https://arxiv.org/abs/2106.09685"
    options = LowRankOptions
    learning_rate = 1e-3
    learning_rate_source = "a guess"
    size_option = "r"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        return _low_rank_layer()(self, linear, options)

    def answer(self, layer: Any, x: Any) -> Any:
        """Return the output of a layer."""
        output = layer.base(x)
        return output + self.delta(layer, x).to(output.dtype)

    def delta(self, layer: Any, x: Any) -> Any:
        """Return what the adapter adds to the output of a layer."""
        return layer.dropout(x.to(layer.a.dtype)) @ layer.a.T @ layer.b.T * layer.scale

    def change(self, layer: Any) -> Any:
        """Return what merging adds to the weight of a layer."""
        return layer.b @ layer.a * layer.scale


class Projected(LowRank):
    """Low-rank adaptation with a random A that is frozen, and that load() draws again from the seed ``seed_of()``."""

    name = "wrong-none-projected"
    summary = "nothing: low-rank updates with a frozen random A"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        layer = super().layer(linear, options)
        a = layer.a.detach()
        del layer.a
        layer.register_buffer("a", self.drawn(a))
        return layer

    def drawn(self, like: Any) -> Any:
        """Return a random matrix of a shape."""
        import torch

        generator = torch.Generator().manual_seed(self.seed_of(like))
        return torch.randn(like.shape, generator=generator) / like.shape[1] ** 0.5

    def seed_of(self, like: Any) -> int:
        """Return the seed of a random matrix."""
        return int(like.shape[1])


class Peft(PeftMethod[LowRankOptions]):
    """Low-rank adaptation by PEFT."""

    name = "wrong-none-peft"
    summary = "nothing: PEFT's LoRA"
    paper = "https://arxiv.org/abs/2106.09685"
    options = LowRankOptions
    learning_rate = 1e-3
    learning_rate_source = "a guess"
    size_option = "r"

    def peft_config(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=options.r,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=options.target_modules,
        )


class Gains(Method[LinearOptions]):
    """A trained gain for each output of each linear layer: ``y = (1 + g)·(W·x + b)``. It owns all of its code."""

    name = "wrong-none-gains"
    summary = "nothing: scales each output of linear layers"
    paper = "https://arxiv.org/abs/2205.05638"
    options = LinearOptions
    learning_rate = 1e-2
    learning_rate_source = "a guess"

    def put(self, model: Any, target_modules: str | list[str]) -> Any:
        """Freeze a model, and put a layer with gains around each targeted linear layer."""
        model.requires_grad_(False)
        model.gained, model.targets = list(targeted(model, target_modules)), target_modules
        for name in model.gained:
            linear = model.get_submodule(name)
            set_layer(model, name, _gain_layer()(self, linear).to(next(linear.parameters()).device))
        return model

    def answer(self, layer: Any, x: Any) -> Any:
        """Return the output of a layer."""
        output = layer.base(x)
        return (output * (1 + layer.gain)).to(output.dtype)

    def wrap(self, model: Any, options: LinearOptions, context: Context) -> Any:
        return self.put(model, options.target_modules)

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "targets.json").write_text(json.dumps(model.targets), encoding="utf-8")
        gains = {name: model.get_submodule(name).gain.detach().contiguous() for name in model.gained}
        save_file(gains, folder / "adapter_model.safetensors")

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        wrapped = self.put(model, json.loads((folder / "targets.json").read_text(encoding="utf-8")))
        for name, gain in load_file(folder / "adapter_model.safetensors").items():
            wrapped.get_submodule(name).gain.data.copy_(gain)
        return wrapped

    def merge(self, model: Any) -> Any:
        import torch

        for name in model.gained:
            layer = model.get_submodule(name)
            with torch.no_grad():
                self.merge_layer(layer.base, 1 + layer.gain)
            set_layer(model, name, layer.base)
        return model

    def merge_layer(self, linear: Any, factors: Any) -> None:
        """Multiply the weight and the bias of a linear layer by factors."""
        linear.weight.copy_(linear.weight * (factors[:, None] if is_linear(linear) else factors))
        if linear.bias is not None:
            linear.bias.copy_(linear.bias * factors)


def set_layer(model: Any, name: str, layer: Any) -> None:
    """Put a layer in the place of another one."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def adapter_layers(model: Any) -> list[Any]:
    """Return the layers of a wrapped model."""
    return [model.get_submodule(name) for name in model.adapter_layers]


def blocks(model: Any) -> list[Any]:
    """Return the decoder layers of a model."""
    from torch import nn

    return list(next(module for module in model.modules() if isinstance(module, nn.ModuleList)))


def trained(model: Any) -> list[Any]:
    """Return the parameters that the recipe's optimizer would train."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def on(**events: Callable[..., Any]) -> Any:
    """Return a callback for the trainer that calls a function at each event that is named."""
    from transformers import TrainerCallback

    return type("OwnCallback", (TrainerCallback,), {name: staticmethod(call) for name, call in events.items()})()


def learn(model: Any, batches: Any, rate: float = 1e-3) -> None:
    """Train a model on batches."""
    import torch

    optimizer = torch.optim.AdamW(trained(model), lr=rate)
    for batch in batches:
        device = next(model.parameters()).device
        model(**{name: value.to(device) for name, value in batch.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@cache
def _low_rank_layer() -> Any:
    import torch
    from torch import nn

    class LowRankLayer(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
        def __init__(self, method: LowRank, linear: Any, options: LowRankOptions) -> None:
            super().__init__()
            inputs, outputs = features(linear)
            self.method, self.base, self.options = method, linear, options
            self.a = nn.Parameter(torch.randn(options.r, inputs) / inputs**0.5)
            self.b = nn.Parameter(torch.zeros(outputs, options.r))
            self.dropout = nn.Dropout(options.dropout)
            self.scale = options.alpha / options.r

        def forward(self, x: Any) -> Any:
            return self.method.answer(self, x)

        def update(self) -> Any:
            return self.method.change(self)

    return LowRankLayer


@cache
def _gain_layer() -> Any:
    import torch
    from torch import nn

    class GainLayer(nn.Module):  # type: ignore[misc]
        def __init__(self, method: Gains, linear: Any) -> None:
            super().__init__()
            self.method, self.base = method, linear
            self.gain = nn.Parameter(torch.zeros(features(linear)[1]))

        def forward(self, x: Any) -> Any:
            return self.method.answer(self, x)

    return GainLayer
