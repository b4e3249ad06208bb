"""Everything that a forward pass of a base reads: kept, put back, and compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.digests import new_digest

if TYPE_CHECKING:
    import torch
    from torch import nn

BLOCK_BYTES = 2**26
CONTAINERS = (dict, list, set)
ABSENT = object()


class BaseState:
    """The state of a model at one moment: attributes, classes, settings, and a digest of its tensors."""

    def __init__(self, model: Any) -> None:
        self._holders = [(holder, type(holder), _copied(vars(holder))) for holder in _holders(model)]
        self._classes = {kind: dict(vars(kind)) for kind in _classes(model)}
        found = _settings(model)
        self._settings = [(settings, copy.deepcopy(vars(settings), _themselves(found))) for settings in found]
        self.digest = tensor_digest(model)

    def put_back(self) -> None:
        """Give everything the attributes that it had; what tensors hold is not written again."""
        for holder, kind, attributes in self._holders:
            if type(holder) is not kind:
                holder.__class__ = kind
            vars(holder).clear()
            vars(holder).update(_copied(attributes))
        for kind, attributes in self._classes.items():
            _put_back_class(kind, attributes)
        found = [settings for settings, _ in self._settings]
        for settings, values in self._settings:
            vars(settings).clear()
            vars(settings).update(copy.deepcopy(values, _themselves(found)))


def tensor_digest(model: nn.Module) -> str:
    """Return a digest of every tensor that a forward pass reads: dtype, shape and content, in order.

    Beside parameters and buffers these are tensors in attributes, and what quantized layers keep (``SCB``, ``CB``,
    ``quant_state``). Tensors on the meta device hold nothing.
    """
    whole = new_digest()
    for number, holder in enumerate(_holders(model)):
        if _is_tensor(holder):
            whole.update(f"{number} {holder.dtype} {tuple(holder.shape)}\0".encode())
            for block in _blocks(holder):
                whole.update(block)
    return str(whole.hexdigest())


def _holders(model: nn.Module) -> Iterator[Any]:
    """Yield each object whose attributes a forward pass reads: modules, their tensors, and quantization states."""
    seen: set[int] = set()
    waiting: list[Any] = list(model.modules())
    while waiting:
        holder = waiting.pop(0)
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        yield holder
        waiting += [value for value in _values(holder) if _holds_tensors(value)]


def _values(holder: Any) -> Iterator[Any]:
    """Yield the attributes of an object, and what is in those that are containers."""
    for name, value in vars(holder).items():
        if name == "_modules":  # each is a holder of its own
            continue
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _holds_tensors(value: Any) -> bool:
    """Whether it is a tensor, which may have attributes, or an object that keeps tensors, like a ``QuantState``."""
    if _is_tensor(value):
        return True
    if isinstance(value, type) or hasattr(value, "named_modules") or not hasattr(value, "__dict__"):
        return False
    return any(_is_tensor(held) for held in vars(value).values())


def _blocks(tensor: torch.Tensor) -> Iterator[Any]:
    """Yield the content of a tensor as arrays of bytes, on the CPU."""
    import torch

    if tensor.is_meta:
        return
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    for block in content.split(BLOCK_BYTES):
        yield block.cpu().numpy()


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes with the containers among them (children, parameters, hooks, lists) copied."""
    return {name: copy.copy(value) if isinstance(value, CONTAINERS) else value for name, value in attributes.items()}


def _classes(model: nn.Module) -> set[type]:
    """Return the classes that the modules are made of, with those they inherit from."""
    return {kind for module in model.modules() for kind in type(module).__mro__ if kind is not object}


def _put_back_class(kind: type, attributes: Mapping[str, Any]) -> None:
    """Give a class the attributes that it had: a replaced ``forward`` would serve the next cell too.

    A flag that says "patched already" goes with the patch, else the next cell would do without it in silence.
    """
    now = dict(vars(kind))
    for name in {*now, *attributes}:
        value, before = now.get(name, ABSENT), attributes.get(name, ABSENT)
        if value is before:
            continue
        if before is ABSENT:
            delattr(kind, name)
        else:
            setattr(kind, name, before)


def _settings(model: Any) -> list[Any]:
    """Return the objects that say how a model computes and answers: its configurations, nested ones included."""
    found: list[Any] = []
    for module in model.modules():
        for name in ("config", "generation_config"):
            settings = vars(module).get(name)
            if hasattr(settings, "__dict__") and not any(settings is other for other in found):
                found.append(settings)
    return found


def _themselves(objects: Sequence[Any]) -> dict[int, Any]:
    """Return a memo for ``deepcopy`` by which these objects stay the same: modules share nested configurations."""
    return {id(shared): shared for shared in objects}
