"""Copy a base model one part after the other, without quantization; the rest of each copy has shapes and no content.

Whoever merges an adapter changes the weights, and needs them without quantization. A model may be too large for that as
a whole, even if it was trained on: in 4 bits, or with weights on the disk.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.machine.memory import available, free_memory
from adapterzoo.model.layers import blocks, outside
from adapterzoo.model.quantization import dequantize
from adapterzoo.quantizations.contract import NONE
from adapterzoo.quantizations.registry import quantizations

if TYPE_CHECKING:
    import torch
    from torch import nn

# Beside the weights of a part there is what merging makes of a layer, and what is being written to a file.
SHARE_OF_FREE = 0.25


class Part(NamedTuple):
    """A copy of a model, of which only a part has content."""

    model: Any
    kept: set[nn.Module]
    """the modules of the part"""
    empty: set[nn.Module]
    """all others, whose weights are zeros that a method may read but not change"""
    total: int
    """number of parts; with 1, the part is the whole model"""

    def leave_out(self, wrapped: nn.Module) -> None:
        """Put what is empty, with all that a method has put around or into it, on the meta device."""
        if wrapped in self.empty:
            _forget_own_content(wrapped)
        for name, child in [*wrapped.named_children()]:
            inside = set(child.modules())
            if inside & self.kept:
                self.leave_out(child)
            elif inside & self.empty:
                setattr(wrapped, name, copy.deepcopy(child, _without_content(inside, device="meta")))


def parts(
    model: nn.Module, quantization: str, dtype: str, *, precise: bool = False, whole: bool = False
) -> Iterator[Part]:
    """Yield copies of a model without quantization; each weight has content in one of them.

    Together the copies have all weights. As few are made as the free memory allows; if it is enough for a copy of the
    whole model, that is the only one. A block, which transformers never splits, is always in one part.

    Args:
        model: the model, which is not changed.
        quantization: name of its quantization.
        dtype: name of the dtype of the model.
        precise: whether the copies are in float32, so that a small change of a weight is not rounded away.
        whole: whether to copy all of it in one part, even if the free memory may not be enough.

    Raises:
        UserError: the quantization cannot be undone.
    """
    import torch

    from adapterzoo.model.offloaded import read_for_good

    inner = blocks(model)
    kind: torch.dtype = getattr(torch, dtype)
    # Whoever needs it precise compares the merged weights with a second copy of what they were before.
    size = 2 * torch.float32.itemsize if precise else kind.itemsize
    groups = [*_grouped(model, inner, math.inf if whole else available() * SHARE_OF_FREE / size)]
    for number, chosen in enumerate(groups):
        # Everything that is in no block belongs to the first part.
        others = [module for block in inner if block not in chosen for module in block.modules()]
        others += outside(model, inner) if number else []
        copies: dict[int, Any] = _without_content(others, kind) | _without_hooks(model)
        copied: Any = copy.deepcopy(model, copies)
        _remove_hooks(copied)
        for module in copied.modules():
            read_for_good(module)
        empty = {copies[id(module)] for module in others}
        if quantization != NONE:
            copied = dequantize(copied, quantization, dtype)
        if precise:
            _make_precise(copied)
        yield Part(copied, {*copied.modules()} - empty, empty, len(groups))
        del copied, copies, empty
        free_memory()


def _grouped(model: nn.Module, inner: Sequence[nn.Module], room: float) -> Iterator[set[nn.Module]]:
    """Yield the blocks of each part; the first part has room for what is in no block too.

    Args:
        model: the model.
        inner: its blocks.
        room: number of weights that a part may have; a part has at least one block.
    """
    owners: dict[int, int] = {}
    shared = any(owners.setdefault(id(p), n) != n for n, block in enumerate(inner) for p in block.parameters())
    group: set[nn.Module] = set()
    used = sum(_weights(module) for module in outside(model, inner))
    for block in inner:
        needed = sum(map(_weights, block.modules()))
        if group and used + needed > room and not shared:
            yield group
            group, used = set(), 0
        group.add(block)
        used += needed
    yield group


def _weights(module: nn.Module) -> int:
    """Return the number of weights that a module itself has, as they are without quantization."""
    own: int = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return own + sum(quantization.hidden_parameters(module) for quantization in quantizations().values())


def _without_content(
    modules: Iterable[nn.Module], dtype: torch.dtype | None = None, device: str | None = None
) -> dict[int, Any]:
    """Return what ``copy.deepcopy`` takes as its memo, so that it copies the tensors of modules without their content.

    Args:
        modules: the modules. A quantized linear layer becomes an ordinary one.
        dtype: dtype of the weights that quantized layers get.
        device: where the tensors will be; by default where they are.
    """
    from torch import nn

    from adapterzoo.model.offloaded import computing_device

    kinds = [*quantizations().values()]
    memo: dict[int, Any] = {}
    for module in modules:
        weight = module._parameters.get("weight")
        quantized = weight is not None and hasattr(module, "in_features") and not weight.is_floating_point()
        if quantized or any(kind.is_layer(module) for kind in kinds):
            layer: Any = module
            place = device or next(layer.parameters()).device
            memo[id(layer)] = plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta")
            for name, parameter in plain.named_parameters():
                setattr(plain, name, _empty(parameter, dtype or parameter.dtype, place))
            continue
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                memo[id(tensor)] = _empty(tensor, tensor.dtype, device or computing_device(module, tensor))
    return memo


def _empty(tensor: torch.Tensor, dtype: torch.dtype, device: Any) -> torch.Tensor:
    """Return a tensor of zeros that takes no memory, because they share one number; it has the shape of another one."""
    import torch
    from torch import nn

    empty = torch.zeros((), dtype=dtype, device=device).expand(tensor.shape)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def is_empty(tensor: torch.Tensor) -> bool:
    """Tell whether a weight of a part has no content."""
    return tensor.is_meta or (tensor.dim() > 0 and not any(tensor.stride()))


def _make_precise(model: nn.Module) -> None:
    """Turn the weights of a part into float32."""
    import torch

    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = _empty(tensor, torch.float32, tensor.device).data if is_empty(tensor) else tensor.data.float()


def _forget_own_content(module: nn.Module) -> None:
    """Put the tensors that a module itself has on the meta device."""
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None:
                tensors[name] = _empty(tensor, tensor.dtype, "meta")


def _without_hooks(model: nn.Module) -> dict[int, Any]:
    """Return a memo for ``copy.deepcopy`` by which accelerate's hooks, which may hold all weights, are not copied."""
    from accelerate.hooks import ModelHook

    hooks = (vars(module).get("_hf_hook") for module in model.modules())
    return {id(hook): ModelHook() for hook in hooks if hook is not None}


def _remove_hooks(model: Any) -> None:
    """Remove the hooks of a copy, and what says where the weights of the original are."""
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    vars(model).pop("hf_device_map", None)
