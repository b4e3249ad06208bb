"""Find the parts of a model that are used together: its layers, and the tensors that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from adapterzoo.model.base_state import holders, parts

if TYPE_CHECKING:
    import torch
    from torch import nn


def layers(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the modules of each layer that transformers says not to split, and each module that is in no such layer."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    seen: set[nn.Module] = set()
    for module in model.modules():
        if type(module).__name__ in names and module not in seen:
            seen.update(module.modules())
            yield list(module.modules())
    yield from ([module] for module in model.modules() if module not in seen)


def ordinary_tensors(roots: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors that objects hold and that have content of their own."""
    import torch

    for holder in holders(roots):
        ordinary = isinstance(holder, torch.Tensor) and not parts(holder)
        if ordinary and not holder.is_meta and holder.layout == torch.strided:
            yield holder
