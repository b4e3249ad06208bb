"""Divide the frozen weights of a model among the ranks while it is trained (FSDP2, ``torch.distributed.fsdp``).

Each rank keeps a part of every frozen weight of the base model. A layer is put together just before it is computed, and
taken apart again afterwards. The adapter is small: it stays whole on every rank, so that methods, optimizers,
checkpoints and saved adapters are those of one process. Its gradients are averaged here, because FSDP2 does that only
for what it divides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import _composable_state
from torch.distributed.fsdp import fully_shard

from adapterzoo.machine import ranks
from adapterzoo.model.base import CODES, OF_BASE

FSDP = "torch.distributed.fsdp"
"""package of all that FSDP2 puts on a model"""
HOOKS = [name for name, value in vars(nn.Module()).items() if isinstance(value, dict) and name.endswith("hooks")]


@contextmanager
def sharded(model: nn.Module) -> Iterator[None]:
    """Divide the frozen weights of a model in a ``with`` block, and put the model together again afterwards."""
    with _codes_as_numbers(model):
        yield from _sharded(model)


def _sharded(model: nn.Module) -> Iterator[None]:
    before = [_ModuleState(module) for module in model.modules()]
    frozen = [parameter for parameter in model.parameters() if _is_divided(parameter)]
    whole = set(model.parameters()) - set(frozen)
    try:
        for layer in _layers(model):
            fully_shard(layer, ignored_params=whole)
        fully_shard(model, ignored_params=whole)
        for state in before:
            state.note_additions()
        # The whole weights are needed again for measuring. Meanwhile they must not take the memory of the GPU.
        with _on_cpu(frozen):
            yield
    finally:
        for state in before:
            state.undo()


def send_from_rank_0(parameters: Sequence[nn.Parameter]) -> None:
    """Give all ranks the values that trained parameters have on rank 0."""
    for parameter in parameters:
        distributed.broadcast(parameter.data, src=0)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give all ranks the mean of their gradients, where any of them has one."""
    used = ranks.totals([float(parameter.grad is not None) for parameter in parameters])
    shared = [parameter for parameter, number in zip(parameters, used, strict=True) if number]
    for dtype in dict.fromkeys(parameter.dtype for parameter in shared):  # in one order on all ranks
        alike = [parameter for parameter in shared if parameter.dtype == dtype]
        for parameter in alike:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # One message for all of them takes much less time than many small ones.
        message = torch.cat([parameter.grad.flatten() for parameter in alike if parameter.grad is not None])
        distributed.all_reduce(message)
        parts = (message / ranks.count()).split([parameter.numel() for parameter in alike])
        for parameter, part in zip(alike, parts, strict=True):
            parameter.grad = part.view_as(parameter)


@dataclass
class _ModuleState:
    """The class, the parameters, the hooks and the attributes of a module before FSDP2, which changes all of them."""

    module: nn.Module
    attributes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.kind = type(self.module)
        self.parameters = dict(self.module._parameters)
        self._attributes = set(vars(self.module))

    def note_additions(self) -> None:
        """Note what was added since, as what a method adds later is its own."""
        self.attributes = set(vars(self.module)) - self._attributes

    def undo(self) -> None:
        """Give the module what it had."""
        if type(self.module) is not self.kind and issubclass(type(self.module), self.kind):
            self.module.__class__ = self.kind
        for name, parameter in self.parameters.items():
            if parameter is not None and _is_divided(parameter) and name in self.module._parameters:
                self.module._parameters[name] = parameter
        for name in HOOKS:
            hooks = getattr(self.module, name)
            for key in [key for key, hook in hooks.items() if _is_of_fsdp(hook)]:
                del hooks[key]
        for name in self.attributes:
            vars(self.module).pop(name, None)
        _composable_state._module_state_mapping.pop(self.module, None)


def _is_of_fsdp(hook: Any) -> bool:
    """Tell whether FSDP2 has registered a hook; torch puts some of them into objects of its own."""
    functions = (hook, getattr(hook, "hook", None))
    return any(str(getattr(function, "__module__", "")).startswith(FSDP) for function in functions)


def _is_divided(parameter: nn.Parameter) -> bool:
    """Tell whether a parameter is divided: it is the base model's, frozen, and FSDP2 can divide it."""
    frozen = not parameter.requires_grad and hasattr(parameter, OF_BASE)
    divisible = type(parameter) is nn.Parameter or hasattr(parameter, CODES)
    return frozen and divisible and parameter.is_floating_point()


@contextmanager
def _codes_as_numbers(model: nn.Module) -> Iterator[None]:
    """View the codes of quantized weights as bfloat16 in a ``with`` block, because FSDP2 cannot divide integers."""
    codes = {parameter: parameter.shape for parameter in model.parameters() if hasattr(parameter, CODES)}
    for parameter in codes:
        if parameter.numel() % 2 == 0:
            parameter.data = parameter.data.flatten().view(torch.bfloat16)[:, None]
    try:
        yield
    finally:
        for parameter, shape in codes.items():
            parameter.data = parameter.data.flatten().view(torch.uint8).reshape(shape)


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that transformers says not to split, such as those of a decoder."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


@contextmanager
def _on_cpu(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Keep the content of parameters of a GPU in the memory of the CPU in a ``with`` block."""
    places = [parameter.device for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.cpu()
    try:
        yield
    finally:
        for parameter, place in zip(parameters, places, strict=True):
            parameter.data = parameter.data.to(place)
