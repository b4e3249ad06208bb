"""The new head of a model: layers that a task puts on a base model, with weights that no checkpoint has."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from adapterzoo.methods.layers import new_head
from adapterzoo.tasks.contract import ModelForm

if TYPE_CHECKING:
    from torch import nn


def head_names(model: Any) -> list[str]:
    """Return the names of the modules that are beside the base model and have weights."""
    return [name for name, module in model.named_children() if name != model.base_model_prefix and _size(module)]


def mark_head(model: Any, form: ModelForm) -> None:
    """Note on a model which of its modules are a new head; methods find them by :func:`methods.layers.new_head`."""
    model.new_head = tuple(head_names(model)) if form.new_head else ()


def is_base_weight(model: Any, key: str) -> bool:
    """Tell whether a weight of a checkpoint belongs to the base model, and not to a head."""
    prefix = f"{model.base_model_prefix}."
    # A checkpoint of the base model alone has no prefix.
    name = key if key.startswith(prefix) else prefix + key
    return any(name.startswith(f"{prefix}{child}.") for child, _ in model.base_model.named_children())


def put_new_head(model: Any, seed: int) -> None:
    """Put a copy of each head on a model, with random numbers that depend on the seed alone.

    The old head stays as it is, and comes back when the borrowed model is restored.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in new_head(model):
            head = copy.deepcopy(getattr(model, name))
            head.apply(_forget_initialized)
            head.apply(model._init_weights)
            setattr(model, name, head)


def head_parameters(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters of the new head of a base model, which may be wrapped, by their names in it."""
    return {
        f"{name}.{key}": parameter
        for name in new_head(model)
        for key, parameter in getattr(model, name).named_parameters()
    }


def train_head(model: Any) -> dict[str, nn.Parameter]:
    """Make the new head of a wrapped base model trainable; return its parameters, unless the method trains a copy.

    PEFT trains a copy of the head, and saves it in its adapter.
    """
    head = head_parameters(model)
    if any(parameter.requires_grad for parameter in head.values()):
        return {}
    for parameter in head.values():
        parameter.requires_grad_(True)
    return head


def adapter_size(wrapped: nn.Module, model: Any) -> int:
    """Return the number of parameters that a method trains, without those of a new head.

    Args:
        wrapped: the wrapped model.
        model: the base model that was wrapped.
    """
    head = {id(parameter) for parameter in head_parameters(model).values()}
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad and id(p) not in head)


def _forget_initialized(module: nn.Module) -> None:
    """Remove the marks by which transformers leaves weights alone that it has initialized or loaded before."""
    for holder in (module, *module.parameters(recurse=False)):
        if hasattr(holder, "_is_hf_initialized"):
            del holder._is_hf_initialized


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
