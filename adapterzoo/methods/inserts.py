"""Find the layers of a model and the ends of their blocks, and put a method's own modules behind them."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import Problem
from adapterzoo.methods.contract import OptionsT
from adapterzoo.methods.layers import ModuleMethod
from adapterzoo.methods.targets import features, linear_layers

if TYPE_CHECKING:
    from torch import nn

BLOCKS_OF_A_LAYER = 2  # attention and feed-forward; a decoder that reads an encoder has one more


class InsertMethod(ModuleMethod[OptionsT]):
    """A method that puts modules behind modules of the model; a subclass only has to return these modules."""

    mergeable_into = ()

    @abstractmethod
    def inserts(self, model: nn.Module, options: OptionsT) -> Mapping[str, nn.Module]:
        """Return name of a module of the model -> new module to put behind it; do not change the model.

        The ``forward`` of a new module takes the output of the model's module, a tensor of shape (..., width) in
        float32, and returns a tensor of the same shape, which takes the place of that output. If the output is a tuple,
        this is its first element. :func:`transformer_layers` and :func:`block_ends` find places.
        """

    def replacements(self, model: nn.Module, options: OptionsT) -> dict[str, nn.Module]:
        """See :meth:`ModuleMethod.replacements`."""
        from adapterzoo.methods.behind import Behind

        return {name: Behind(model.get_submodule(name), new) for name, new in self.inserts(model, options).items()}


def transformer_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of the decoder or the encoder by their full names; for an encoder-decoder, those of both.

    They are the items of the outermost lists of modules that have linear layers.
    """
    from torch.nn import ModuleList

    lists: list[str] = []
    layers = {}
    linear = tuple(linear_layers(model))
    for name, module in model.named_modules():
        if not isinstance(module, ModuleList) or name.startswith(tuple(f"{outer}." for outer in lists)):
            continue
        lists.append(name)
        for child, layer in module.named_children():
            full_name = f"{name}.{child}"
            if any(end.startswith(f"{full_name}.") for end in linear):
                layers[full_name] = layer
    return layers


def block_ends(model: Any) -> dict[str, nn.Module]:
    """Return the linear layer at the end of each attention and each feed-forward block by its full name.

    What it computes is added to the residual stream. In each part of a transformer layer it is the last linear layer
    that has the width of the model. Mixtures of experts have no such layer, and their feed-forward is left out.
    """
    width, linear = model.config.hidden_size, linear_layers(model)
    ends = {}
    for name, layer in transformer_layers(model).items():
        parts: dict[str, str] = {}
        for inner in linear:
            if inner.startswith(f"{name}.") and features(linear[inner])[1] == width:
                # A part is a child of the layer, or in T5 an item of a list which is the layer's only child.
                found = re.match(r"[^.]+(\.\d+(?=\.))?", inner.removeprefix(f"{name}."))
                assert found
                parts[found.group()] = inner
        ends.update({end: linear[end] for part, end in parts.items() if not _has_experts(layer.get_submodule(part))})
    return ends


def _has_experts(part: nn.Module) -> bool:
    """Tell whether a part of a layer has several feed-forward blocks, in a list or with their weights in one tensor."""
    from torch.nn import ModuleList

    several = any(isinstance(module, ModuleList) for module in part.modules())
    return several or any(parameter.dim() > 2 for parameter in part.parameters())


def layer_problems(skeleton: nn.Module, name: str) -> list[Problem]:
    """Return a problem if the transformer layers of an architecture are not found, for a method that needs them.

    Args:
        skeleton: the base model without weights.
        name: name of the method.
    """
    if transformer_layers(skeleton):
        return []
    what = f"{name} finds no layers in this architecture: it has no list of modules that have linear layers."
    return [Problem("model", what, "Leave the method out, or choose another model.")]


def block_problems(skeleton: nn.Module, name: str) -> list[Problem]:
    """Return a problem if a layer's attention or feed-forward is not found, for a method that needs both.

    Args:
        skeleton: the base model without weights.
        name: name of the method.
    """
    ends = block_ends(skeleton)
    for layer in transformer_layers(skeleton):
        found = [end for end in ends if end.startswith(f"{layer}.")]
        if len(found) < BLOCKS_OF_A_LAYER:
            what = (
                f"{name} needs the last linear layer of the attention and of the feed-forward, and finds in {layer}: "
            )
            hint = "Leave the method out, or choose a model without experts whose layers have both blocks."
            return [Problem("model", what + (", ".join(found) or "none") + ".", hint)]
    return layer_problems(skeleton, name)
