"""Read the weights that accelerate has left in the memory of the CPU or on the disk each time that they are used.

accelerate brings such weights in before a layer computes, and takes them out afterwards. A method may use the weights
of a layer elsewhere: to choose its first numbers, or to compute the norm of a column. Here a weight is read wherever it
is used, so no method has to know about it. Autograd would keep it for the backward pass: there it is read again.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook, remove_hook_from_submodules
from torch import nn

from adapterzoo.machine.memory import give_back_freed_memory
from adapterzoo.model.offload_folder import OffloadFolder

SOURCE = "offloaded_weights"
"""attribute of the modules whose weights are read when they are used"""
_in_use: dict[int, weakref.ref[_ReadWeight]] = {}
"""storage of a weight that was read -> the weight, while something uses it"""
_last: list[_ReadWeight] = []
"""the weight that was read last: libraries often look at one several times in a row"""


def read_when_used(model: Any, folder: OffloadFolder | None = None) -> None:
    """Make each weight that accelerate has offloaded be read when it is used, and remove hooks that have no use then.

    Small weights, those of norms and biases, are kept in memory. To everything else the model then seems to be wholly
    on the devices where it computes.

    Args:
        model: the model.
        folder: folder of the weights that cannot be read from the model's own files, if there are any.
    """
    offloaded = [(module, hook) for module in model.modules() for hook in _hooks(module) if hook.offload]
    for module, hook in offloaded:
        hook.offload = False
        _read_when_used(module, _Source(hook.weights_map, torch.device(hook.execution_device), folder))
    if not offloaded:
        return
    places = model.hf_device_map
    devices = {place: torch.device(place) for place in places.values() if place not in ("cpu", "disk")}
    if not devices:
        remove_hook_from_submodules(model)
        for module in model.modules():
            # A hook leaves the class's own forward as an attribute, which would hide what a method does to the class.
            if getattr(vars(module).get("forward"), "__func__", None) is type(module).forward:
                del module.forward
    main = next(iter(devices.values()), torch.device("cpu"))
    model.hf_device_map = {name: devices.get(place, main) for name, place in places.items()}


def is_offloaded(model: nn.Module) -> bool:
    """Tell whether some weights of a model are read when they are used."""
    return any(SOURCE in vars(module) for module in model.modules())


def computing_device(module: nn.Module, tensor: torch.Tensor) -> torch.device:
    """Return the device where a module has one of its tensors when it computes."""
    source: _Source | None = vars(module).get(SOURCE)
    return source.device if source is not None and tensor.is_meta else tensor.device


def read_for_good(module: nn.Module) -> None:
    """Make a module an ordinary one, whose weights stay in memory, if they were read when they were used."""
    source: _Source | None = vars(module).pop(SOURCE, None)
    if source is None:
        return
    module.__class__ = type(module).__bases__[0]
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            module._parameters[name] = nn.Parameter(source.read(name).data.clone(), requires_grad=False)


def in_use() -> int:
    """Return how many weights that were read are still in memory, because something uses them."""
    _last.clear()
    gc.collect()
    return len(_in_use)


@contextmanager
def read_again_for_backward(model: nn.Module) -> Iterator[None]:
    """Let autograd keep no offloaded weight of a model in a ``with`` block: the backward pass reads it again."""
    if not is_offloaded(model):
        yield
        return
    give_back_freed_memory()  # weights come and go, and memory is what is scarce
    try:
        with torch.autograd.graph.saved_tensors_hooks(_packed, _unpacked):
            yield
    finally:
        _last.clear()


class _ReadWeight(nn.Parameter):  # type: ignore[misc]  # torch is not followed for types
    """A weight that was read because something uses it; nothing keeps it afterwards."""

    source: _Source
    weight_name: str

    @property
    def data(self) -> torch.Tensor:
        """Return the content. It cannot be replaced, because the next use would read the old content again."""
        return super().data

    @data.setter
    def data(self, content: torch.Tensor) -> None:
        raise RuntimeError(f"an offloaded {self.weight_name} of the base model cannot be changed (model.device_map)")


class _Source:
    """Reads the offloaded weights of one module, to the device where it computes."""

    def __init__(
        self, weights: Mapping[str, torch.Tensor], device: torch.device, folder: OffloadFolder | None = None
    ) -> None:
        self._weights, self.device = weights, device
        self._folder = folder  # keeps it from the models that are loaded next

    def __deepcopy__(self, memo: dict[int, Any]) -> _Source:
        return self

    def read(self, name: str) -> _ReadWeight:
        """Return a weight of the module, on the device where the module computes."""
        if _last and (last := _last[0]).source is self and last.weight_name == name and not last._version:
            return last
        _last.clear()  # before the next one is read, so that only one is in memory
        weight = _ReadWeight(self._weights[name].to(self.device), requires_grad=False)
        weight.source, weight.weight_name = self, name
        storage = weight.untyped_storage()._cdata
        _in_use[storage] = weakref.ref(weight, lambda gone: _forget(storage, gone))
        _last.append(weight)
        return weight


def _forget(storage: int, gone: weakref.ref[_ReadWeight]) -> None:
    """Forget a weight that nothing uses any more; another one may have its storage's address by now."""
    if _in_use.get(storage) is gone:
        del _in_use[storage]


def _hooks(module: nn.Module) -> Iterator[AlignDevicesHook]:
    """Yield the hooks by which accelerate moves weights and inputs of a module."""
    hook = getattr(module, "_hf_hook", None)
    for part in hook.hooks if isinstance(hook, SequentialHook) else [hook]:
        if isinstance(part, AlignDevicesHook):
            yield part


def _read_when_used(module: nn.Module, source: _Source) -> None:
    """Keep the small weights of a module in memory, and read its others when they are used."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta and parameter.dim() < 2:
            module._parameters[name] = nn.Parameter(source.read(name).data, requires_grad=False)
    names = tuple(name for name, parameter in module._parameters.items() if parameter is not None and parameter.is_meta)
    if names:
        setattr(module, SOURCE, source)
        kind: Any = type(module)
        module.__class__ = _reading(kind, names)


@cache
def _reading(kind: Any, names: tuple[str, ...]) -> Any:
    """Return a class like ``kind`` whose parameters with these names are read when they are used."""
    parts = {name: property(partial(_weight, name)) for name in names}
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__, **parts})


def _weight(name: str, module: nn.Module) -> nn.Parameter | None:
    """Return a weight of a module: read from its source, unless something else was put in its place.

    Raises:
        RuntimeError: something wants to train it, or has taken it out of the module, as torch's parametrizations do.
    """
    if name not in module._parameters:
        raise RuntimeError(f"an offloaded {name} of the base model cannot be replaced (model.device_map)")
    parameter = module._parameters[name]
    if parameter is None or not parameter.is_meta:
        return parameter
    if parameter.requires_grad:
        raise RuntimeError(f"an offloaded {name} of the base model cannot be trained (model.device_map)")
    source: _Source = getattr(module, SOURCE)
    return source.read(name)


class _Again:
    """Stands for an offloaded weight, or a view of it, until the backward pass reads it again."""

    def __init__(self, weight: _ReadWeight, saved: torch.Tensor) -> None:
        self._source, self._name = weight.source, weight.weight_name
        self._shape = saved.shape, saved.stride(), saved.storage_offset() - weight.storage_offset()

    def read(self) -> torch.Tensor:
        """Return the tensor that autograd saved."""
        weight, (shape, stride, offset) = self._source.read(self._name), self._shape
        return torch.as_strided(weight.detach(), shape, stride, weight.storage_offset() + offset)


def _packed(tensor: torch.Tensor) -> torch.Tensor | _Again:
    """Return what autograd keeps of a tensor for the backward pass."""
    # An output that is kept as itself would keep its own graph, and so never be freed.
    if tensor.layout != torch.strided or type(tensor) not in (torch.Tensor, nn.Parameter, _ReadWeight):
        return tensor.detach()
    found = _in_use.get(tensor.untyped_storage()._cdata)
    weight = found() if found is not None else None
    if weight is None or tensor.dtype != weight.dtype or weight._version:  # changed in place, since it was read
        return tensor.detach()
    return _Again(weight, tensor)


def _unpacked(kept: torch.Tensor | _Again) -> torch.Tensor:
    return kept.read() if isinstance(kept, _Again) else kept
