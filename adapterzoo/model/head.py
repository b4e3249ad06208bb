"""The new head of a model: layers that a task puts on a base model, with weights that no checkpoint has."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.methods.contract import Method
from adapterzoo.methods.targets import new_head
from adapterzoo.tasks.examples import ModelForm

if TYPE_CHECKING:
    from torch import nn

HEAD = "head.safetensors"
"""file in an adapter's folder with a new head, if the adapter itself does not hold it"""


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
    """Put a copy of each head in float32 on a model, with random numbers that depend on the seed alone.

    The old head stays as it is, and comes back when the borrowed model is restored.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in new_head(model):
            head = copy.deepcopy(getattr(model, name))
            head.apply(_forget_initialized)
            head.apply(model._init_weights)
            # Steps of less than a 256th of a weight would round to nothing in bfloat16.
            head.float().register_forward_pre_hook(_to_float)
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


def save_adapter(method: Method[Any], wrapped: nn.Module, head: dict[str, nn.Parameter], folder: Path) -> None:
    """Save an adapter, and beside it the head that :func:`train_head` returned, if it is not empty."""
    from safetensors.torch import save_file

    # A method that saves all that is trained must not save the head, which it would not find when it loads.
    for parameter in head.values():
        parameter.requires_grad_(False)
    method.save(wrapped, folder)
    if head:
        save_file({name: weight.detach().contiguous() for name, weight in head.items()}, folder / HEAD)


def load_head(model: Any, folder: Path) -> None:
    """Put a new head on an untouched base model, if its task has one, with the weights beside a saved adapter.

    The adapter itself may hold the head; its ``load`` then fills in the weights.
    """
    import torch
    from safetensors.torch import load_file

    put_new_head(model, 0)  # the base model's own head must stay as it is
    if not (folder / HEAD).is_file():
        return
    head = head_parameters(model)
    with torch.no_grad():
        for name, weight in load_file(folder / HEAD).items():
            head[name].copy_(weight)


def adapter_size(wrapped: nn.Module, model: Any) -> int:
    """Return the number of parameters that a method trains, without those of a new head.

    Args:
        wrapped: the wrapped model.
        model: the base model that was wrapped.
    """
    head = {id(parameter) for parameter in head_parameters(model).values()}
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad and id(p) not in head)


def _to_float(head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (arguments[0].float(), *arguments[1:])


def _forget_initialized(module: nn.Module) -> None:
    """Remove the marks by which transformers leaves weights alone that it has initialized or loaded before."""
    for holder in (module, *module.parameters(recurse=False)):
        if hasattr(holder, "_is_hf_initialized"):
            del holder._is_hf_initialized


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
