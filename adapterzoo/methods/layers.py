"""Put a method's own modules into a model, such as a layer around each of its linear layers."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapterzoo.errors import AdapterzooError, Problem
from adapterzoo.methods.contract import Context, LinearOptions, Method, OptionsT
from adapterzoo.methods.targets import is_linear, pattern_problems, target_problems, targeted

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LinearOptionsT = TypeVar("LinearOptionsT", bound=LinearOptions)


class ModuleMethod(Method[OptionsT]):
    """A method whose own modules take the place of modules of the model.

    Subclass :class:`LayerMethod` or :class:`InsertMethod` instead, unless neither fits.
    """

    @abstractmethod
    def replacements(self, model: nn.Module, options: OptionsT) -> Mapping[str, nn.Module]:
        """Return name of a module of the model -> module that takes its place.

        A replacement keeps the module that it replaces as ``base``, and holds the trained parameters.
        """

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        return self._put_layers(model, options)

    def _put_layers(self, model: Any, options: OptionsT) -> nn.Module:
        """Freeze the model, and replace its modules."""
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        replacements = self.replacements(model, options)
        # Find all parents first, because a replaced module may be inside another one.
        parents = [model.get_submodule(name.rpartition(".")[0]) for name in replacements]
        for parent, (name, module) in zip(parents, replacements.items(), strict=True):
            child = name.rpartition(".")[2]
            replaced = getattr(parent, child)
            _move(module, _device(replaced, model))
            setattr(parent, child, module)
        model.adapter_layers = list(replacements)
        model.adapter_options = options
        wrapped: nn.Module = model
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        """See :meth:`Method.save`. The folder gets the trained parameters by name, and the options."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = {"method": self.name, "options": model.adapter_options.model_dump()}
        (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        tensors = {name: parameter.detach().contiguous() for name, parameter in trained_parameters(model).items()}
        save_file(tensors, folder / WEIGHTS)

    def load(self, model: nn.Module, folder: Path, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.load`.

        Raises:
            AdapterzooError: the saved adapter is of another method, or does not fit this model.
        """
        from safetensors.torch import load_file

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("method") != self.name:
            raise AdapterzooError(f"{folder} holds no adapter of '{self.name}'")
        wrapped = self._put_layers(model, options)
        saved, wanted = load_file(folder / WEIGHTS), trained_parameters(wrapped)
        if saved.keys() != wanted.keys():
            names = ", ".join(sorted(saved.keys() ^ wanted.keys())[:3])
            raise AdapterzooError(f"{folder} does not fit this model: only one of the two has {names}")
        wrapped.load_state_dict(saved, strict=False)
        return wrapped


class LayerMethod(ModuleMethod[LinearOptionsT]):
    """A method that puts its own layer around each targeted linear layer; a subclass only has to return that layer."""

    @abstractmethod
    def layer(self, linear: nn.Module, options: LinearOptionsT) -> nn.Module:
        """Return the layer around ``linear``: a module that keeps it as ``base`` and holds the trained parameters.

        Its ``forward`` takes a tensor of shape (..., in) and returns one of shape (..., out) in the same dtype. A
        method that can merge also gives it ``update()``, which returns what is added to the weight, of shape
        (out, in), or a pair of that and what is added to the bias, of shape (out,). If ``linear`` is quantized, its
        weight has a packed shape (use :func:`features` instead) and holds codes, not numbers: call ``linear`` itself.
        """

    def problems(self, skeleton: nn.Module, options: LinearOptionsT, context: Context) -> list[Problem]:
        """Return a problem for each name in ``target_modules`` that matches no layer, or more than linear layers."""
        targets = options.target_modules
        return [*target_problems(skeleton, targets), *pattern_problems(skeleton, targets, self.name)]

    def replacements(self, model: nn.Module, options: LinearOptionsT) -> dict[str, nn.Module]:
        """See :meth:`ModuleMethod.replacements`."""
        layers = {}
        for name, linear in targeted(model, options.target_modules).items():
            layers[name] = layer = self.layer(linear, options)
            # Not the attribute: that reads a weight which may be elsewhere until it is used.
            weight = linear._parameters.get("weight", None)
            weight = getattr(linear, "weight", None) if weight is None else weight
            if not hasattr(layer, "weight") and weight is not None:
                # T5 reads the weight's dtype. Not as a parameter of the layer, which would then be saved twice.
                object.__setattr__(layer, "weight", weight)
        return layers

    def merge(self, model: Any) -> nn.Module:
        """See :meth:`Method.merge`.

        Raises:
            AdapterzooError: a layer has no ``update()``, because its effect is not a change of the weight; or it
                changes the bias of a linear layer that has none.
        """
        import torch

        for name in model.adapter_layers:
            layer = model.get_submodule(name)
            if not hasattr(layer, "update"):
                raise AdapterzooError(f"{name} has no update(): a method that cannot merge sets mergeable_into = ()")
            update, linear = layer.update(), layer.base
            update, bias = update if isinstance(update, tuple) else (update, None)
            if bias is not None and linear.bias is None:
                what = (
                    "has no bias that an update could be added to: a method that adds biases sets mergeable_into = ()"
                )
                raise AdapterzooError(f"{name} {what}")
            with torch.no_grad():
                linear.weight += (update if is_linear(linear) else update.T).to(linear.weight.dtype)
                if bias is not None:
                    linear.bias += bias.to(linear.bias.dtype)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base)
        merged: nn.Module = model
        return merged


def _move(module: nn.Module, device: torch.device) -> None:
    """Move the tensors of a module to a device, except those of a base model that are read when they are used."""
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)


def _device(module: nn.Module, model: nn.Module) -> torch.device:
    """Return the device where a module of a model computes, also if its weights are elsewhere until they are used."""
    holders = (part for holder in (module, model) for part in holder.modules())
    weights = (getattr(part, name) for part in holders for name, _ in part.named_parameters(recurse=False))
    device: torch.device = next(weights).device
    return device


def trained_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
