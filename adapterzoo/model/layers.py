"""Find the parts of a model that are used together: its layers, and the tensors that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from adapterzoo.model.base_state import holders, parts

if TYPE_CHECKING:
    import torch
    from torch import nn


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model that transformers says not to split; none of them is inside of another."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if type(module).__name__ in names and module not in inside:
            inside.update(module.modules())
            found.append(module)
    return found


def outside(model: nn.Module, inner: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the modules of a model that are in none of its blocks."""
    inside = {module for block in inner for module in block.modules()}
    return [module for module in model.modules() if module not in inside]


def layers(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the modules of each block of a model, and each module that is in no block."""
    inner = blocks(model)
    yield from ([*block.modules()] for block in inner)
    yield from ([module] for module in outside(model, inner))


def ordinary_tensors(roots: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors that objects hold and that have content of their own."""
    import torch

    for holder in holders(roots):
        ordinary = isinstance(holder, torch.Tensor) and not parts(holder)
        if ordinary and not holder.is_meta and holder.layout == torch.strided:
            yield holder
