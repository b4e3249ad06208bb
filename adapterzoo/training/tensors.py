"""Find the tensors that a training may change, wherever they are kept, and tell whether they have changed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

import torch

from adapterzoo.model.base_state import parts
from adapterzoo.model.divided import own_part


def leaves_of(loss: torch.Tensor) -> list[torch.Tensor]:
    """Return all tensors that get a gradient from a loss, wherever they are kept."""
    leaves, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            leaves.append(function.variable)
        waiting += [following for following, _ in function.next_functions]
    return leaves


def reachable_tensors(roots: Sequence[Any]) -> list[torch.Tensor]:
    """Return all tensors to which references lead from some objects: attributes, items, closures, bound methods."""
    globals_of_modules = {id(vars(module)) for module in list(sys.modules.values()) if hasattr(module, "__dict__")}
    tensors, seen, waiting = [], set(), list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or id(value) in globals_of_modules or isinstance(value, (type, type(sys), str, bytes)):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        waiting += gc.get_referents(value)
    return tensors


def checksum(tensor: torch.Tensor) -> Any:
    """Return a number that changes when the content of a tensor does. It is as fast as reading the tensor."""
    if tensor.is_meta or tensor.numel() == 0:
        return tuple(tensor.shape)
    if tensor.is_sparse or tensor.is_quantized:
        return tensor._version
    if own := parts(tensor):  # a quantized tensor, which has no content itself
        return tuple(map(checksum, own))
    content = own_part(tensor).detach().contiguous().reshape(-1).view(torch.uint8)
    whole = content.numel() // 8 * 8
    # Sums of integers do not depend on their order, so they are the same for any number of threads.
    total = int(content[:whole].view(torch.int64).sum()) if content.data_ptr() % 8 == 0 else int(content[:whole].sum())
    rest = int(content[whole:].sum()) if whole < content.numel() else 0
    return total, rest, tuple(tensor.shape), tensor.dtype
