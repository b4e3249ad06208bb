"""Record and restore everything that a forward pass of a base model reads."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.digests import new_digest

if TYPE_CHECKING:
    import torch
    from torch import nn

BLOCK_BYTES = 2**26  # size of the parts in which a tensor is copied to the CPU
CONTAINERS = (dict, list, set)
ABSENT = object()  # the value of an attribute that a class does not have


class BaseState:
    """The state of a model at one moment: attributes, classes, configurations, and a digest of its tensors."""

    def __init__(self, model: Any) -> None:
        self._holders = [(holder, type(holder), _copied(vars(holder))) for holder in holders(model.modules())]
        self._classes = {kind: dict(vars(kind)) for kind in _classes(model)}
        configs = _configs(model)
        self._configs = [(config, copy.deepcopy(vars(config), _uncopied(configs))) for config in configs]
        self.digest = tensor_digest(model)

    def restore(self) -> list[str]:
        """Give every object the attributes that it had. The content of tensors is not restored.

        Returns:
            The names of the functions of classes that were replaced.
        """
        replaced = []
        for holder, kind, attributes in self._holders:
            if type(holder) is not kind:
                holder.__class__ = kind
            vars(holder).clear()
            vars(holder).update(_copied(attributes))
        for kind, attributes in self._classes.items():
            replaced += _restore_class(kind, attributes)
        configs = [config for config, _ in self._configs]
        for config, values in self._configs:
            vars(config).clear()
            vars(config).update(copy.deepcopy(values, _uncopied(configs)))
        return replaced


def tensor_digest(model: nn.Module) -> str:
    """Return a digest of every tensor that a forward pass reads: dtype, shape and content, in order.

    These are parameters and buffers, tensors in other attributes, and what quantized layers keep (``SCB``, ``CB``,
    ``quant_state``). Tensors on the meta device have no content.
    """
    digest = new_digest()
    for number, holder in enumerate(holders(model.modules())):
        if _is_tensor(holder):
            digest.update(f"{number} {holder.dtype} {tuple(holder.shape)}\0".encode())
            for block in _blocks(holder):
                digest.update(block)
    return str(digest.hexdigest())


def holders(modules: Iterable[Any]) -> Iterator[Any]:
    """Yield each object whose attributes a forward pass reads: modules, their tensors, and quantization states."""
    seen: set[int] = set()
    waiting: list[Any] = list(modules)
    while waiting:
        holder = waiting.pop(0)
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        yield holder
        waiting += [value for value in _values(holder) if _holds_tensors(value)]


def _values(holder: Any) -> Iterator[Any]:
    """Yield the attributes of an object, and the items of those that are containers."""
    for name, value in vars(holder).items():
        if name == "_modules":  # submodules are holders themselves
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
    """Tell whether a value is a tensor, or an object with tensors as attributes, such as a ``QuantState``."""
    if _is_tensor(value):
        return True
    if isinstance(value, type) or hasattr(value, "named_modules") or not hasattr(value, "__dict__"):
        return False
    return any(_is_tensor(attribute) for attribute in vars(value).values())


def held_bytes(model: nn.Module) -> int:
    """Return the number of bytes of every tensor that a forward pass reads, also of those that are no parameters."""
    tensors = [holder for holder in holders(model.modules()) if _is_tensor(holder) and not parts(holder)]
    # A quantized layer may have two tensors with the same content.
    return sum({tensor.data_ptr(): stored_bytes(tensor) for tensor in tensors}.values())


def stored_bytes(tensor: torch.Tensor) -> int:
    """Return the number of bytes that a tensor takes, also if it keeps its content in other tensors."""
    if own := parts(tensor):
        return sum(map(stored_bytes, own))
    return int(tensor.numel() * tensor.element_size())


def parts(tensor: Any) -> list[torch.Tensor]:
    """Return the tensors in which a quantized tensor keeps its content; none if it is an ordinary one."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return []
    return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]


def _blocks(tensor: torch.Tensor) -> Iterator[Any]:
    """Yield the content of a tensor as arrays of bytes, on the CPU."""
    import torch

    from adapterzoo.model.divided import own_part

    if tensor.is_meta or parts(tensor):  # the parts are holders themselves
        return
    content = own_part(tensor).detach().contiguous().reshape(-1).view(torch.uint8)
    for block in content.split(BLOCK_BYTES):
        yield block.cpu().numpy()


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of attributes and of the containers among them (children, parameters, hooks, lists)."""
    return {name: copy.copy(value) if isinstance(value, CONTAINERS) else value for name, value in attributes.items()}


def _classes(model: nn.Module) -> set[type]:
    """Return the classes of all modules, and the classes that they inherit from."""
    return {kind for module in model.modules() for kind in type(module).__mro__ if kind is not object}


def _restore_class(kind: type, attributes: Mapping[str, Any]) -> list[str]:
    """Give a class the attributes that it had, because a replaced ``forward`` would also be used by the next cell.

    Return the names of its functions that were replaced.

    Restore every attribute: if a flag that says "patched already" stayed when the patch is removed, the next cell
    would run without the patch, and no error would show it.
    """
    current, replaced = dict(vars(kind)), []
    for name in {*current, *attributes}:
        value, original = current.get(name, ABSENT), attributes.get(name, ABSENT)
        if value is original:
            continue
        if original is ABSENT:
            delattr(kind, name)
        else:
            setattr(kind, name, original)
        if callable(getattr(kind, name, None)):  # its own function, or the one that it inherits
            replaced.append(f"{kind.__qualname__}.{name}")
    return replaced


def _configs(model: Any) -> list[Any]:
    """Return the configurations of a model and of its modules, each once."""
    configs: list[Any] = []
    for module in model.modules():
        for name in ("config", "generation_config"):
            config = vars(module).get(name)
            if hasattr(config, "__dict__") and not any(config is known for known in configs):
                configs.append(config)
    return configs


def _uncopied(objects: Sequence[Any]) -> dict[int, Any]:
    """Return a memo with which ``deepcopy`` does not copy these objects, because modules share configurations."""
    return {id(shared): shared for shared in objects}
