"""The linear layers of a model, and methods that put a layer of their own around each."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapterzoo.errors import AdapterzooError, Problem, did_you_mean
from adapterzoo.methods.contract import Context, LinearOptions, Method

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LinearOptionsT = TypeVar("LinearOptionsT", bound=LinearOptions)


class LayerMethod(Method[LinearOptionsT]):
    """A method that puts a layer of its own around each targeted linear layer; the layer is all it has to give."""

    @abstractmethod
    def layer(self, linear: nn.Module, options: LinearOptionsT) -> nn.Module:
        """The layer around ``linear``: a module that keeps it as ``base`` and holds the trained parameters.

        Its ``forward`` takes (..., in) and returns (..., out), in the dtype it was given. For a method that merges
        it also has ``update()``, what it adds to the weight, of shape (out, in). ``linear`` may be quantized:
        its weight then has no readable shape (see :func:`features`), and only calling it is sure to work.
        """

    def problems(self, skeleton: nn.Module, options: LinearOptionsT, context: Context) -> list[Problem]:
        """Names in ``target_modules`` of which one matches nothing."""
        return target_problems(skeleton, options.target_modules)

    def wrap(self, model: nn.Module, options: LinearOptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        return self._put(model, options)

    def _put(self, model: Any, options: LinearOptionsT) -> nn.Module:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.adapter_layers = list(targeted(model, options.target_modules))
        for name in model.adapter_layers:
            linear = model.get_submodule(name)
            parent, _, child = name.rpartition(".")
            layer = self.layer(linear, options).to(next(linear.parameters()).device)
            setattr(model.get_submodule(parent), child, layer)
        model.adapter_options = options
        wrapped: nn.Module = model
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        """See :meth:`Method.save`. What is trained, by name, and the options; :meth:`load` reads it."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = {"method": self.name, "options": model.adapter_options.model_dump()}
        (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        save_file({name: tensor.detach().contiguous() for name, tensor in trained(model).items()}, folder / WEIGHTS)

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """See :meth:`Method.load`.

        Raises:
            AdapterzooError: the saved adapter is another method's, or does not fit this model.
        """
        from safetensors.torch import load_file

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("method") != self.name:
            raise AdapterzooError(f"{folder} holds no adapter of '{self.name}'")
        wrapped = self._put(model, self.options(**config["options"]))
        saved, wanted = load_file(folder / WEIGHTS), trained(wrapped)
        if saved.keys() != wanted.keys():
            missing = ", ".join(sorted(saved.keys() ^ wanted.keys())[:3])
            raise AdapterzooError(f"{folder} does not fit this model: {missing}")
        wrapped.load_state_dict(saved, strict=False)
        return wrapped

    def merge(self, model: Any) -> nn.Module:
        """See :meth:`Method.merge`.

        Raises:
            AdapterzooError: a layer has no ``update()``: what it does is no change of a weight.
        """
        import torch

        for name in model.adapter_layers:
            layer = model.get_submodule(name)
            if not hasattr(layer, "update"):
                raise AdapterzooError(f"{name} has no update(): a method that cannot merge says mergeable_into = ()")
            weight, update = layer.base.weight, layer.update()
            with torch.no_grad():
                weight += (update if is_linear(layer.base) else update.T).to(weight.dtype)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base)
        merged: nn.Module = model
        return merged


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def features(linear: Any) -> tuple[int, int]:
    """What a linear layer takes and gives, quantized or not: (in, out)."""
    return (linear.in_features, linear.out_features) if is_linear(linear) else (linear.nx, linear.nf)


def is_linear(layer: nn.Module) -> bool:
    """Whether it is torch's linear layer, or a quantized one; GPT-2's Conv1D keeps its weight transposed."""
    return hasattr(layer, "in_features")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a model by their full names, the output head left out."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def targeted(model: nn.Module, targets: str | list[str]) -> dict[str, nn.Module]:
    """The linear layers that ``target_modules`` means, as PEFT reads it: ends of names, or a pattern for all of one."""
    there = linear_layers(model)
    if targets == "all-linear":
        return there
    if isinstance(targets, str):
        try:
            return {name: layer for name, layer in there.items() if re.fullmatch(targets, name)}
        except re.error:
            return {}
    ends = tuple(f".{target}" for target in targets)
    return {name: layer for name, layer in there.items() if name in targets or name.endswith(ends)}


def target_problems(skeleton: nn.Module, targets: str | list[str] | None) -> list[Problem]:
    """Names in ``target_modules`` of which one matches nothing."""
    if targets is None or targets == "all-linear":
        return []
    there = linear_layers(skeleton)
    last_names = {name.rpartition(".")[2] for name in there}
    if not targets:
        return [Problem("target_modules", "is empty.", f"There is: {', '.join(sorted(last_names))}.")]
    if isinstance(targets, str) and not targeted(skeleton, targets):
        hint = did_you_mean(targets, {"all-linear", *last_names})
        return [Problem("target_modules", f"'{targets}' is no pattern that matches a layer's whole name.", hint)]
    return [
        Problem("target_modules", f"'{target}' matches no layer.", did_you_mean(target, last_names))
        for target in ([] if isinstance(targets, str) else targets)
        if not targeted(skeleton, [target])
    ]
