"""Remember what a library changes on a model in place, and undo it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

HOOKS = [name for name, value in vars(nn.Module()).items() if isinstance(value, dict) and name.endswith("hooks")]


class ModuleStates:
    """Remembers the modules and the parameters of a model, and restores them after a library has changed them."""

    def __init__(self, model: nn.Module, library: str, *, replaces_frozen: bool) -> None:
        """Remember everything.

        Args:
            model: the model.
            library: the package whose hooks are removed, also those that it adds later.
            replaces_frozen: whether it also puts other tensors in the place of frozen weights.
        """
        self._library = library
        self._modules = [_ModuleState(module) for module in model.modules()]
        self._parameters = [
            _ParameterState(parameter, replaced=replaces_frozen or parameter.requires_grad)
            for parameter in model.parameters()
        ]

    def note_additions(self) -> None:
        """Note which attributes were added since, as those that a method adds later are its own."""
        for state in self._modules:
            state.note_additions()

    def undo(self) -> None:
        """Give modules and parameters what they had."""
        for parameter in self._parameters:
            parameter.undo()
        for module in self._modules:
            module.undo(self._library)


class _ParameterState:
    def __init__(self, parameter: nn.Parameter, *, replaced: bool) -> None:
        self.parameter, self.device = parameter, parameter.device
        # The whole weights are needed again afterwards. Meanwhile they must not take the memory of the GPU.
        self.data = parameter.data.cpu() if replaced else parameter.data
        self.attributes = dict(vars(parameter))

    def undo(self) -> None:
        self.parameter.data = self.data.to(self.device)
        self.parameter.grad = None
        added = vars(self.parameter)
        for name in [name for name in added if name not in self.attributes]:
            del added[name]


class _ModuleState:
    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.parameters = module._parameters
        self._before, self._added = set(vars(module)), set[str]()

    def note_additions(self) -> None:
        self._added = set(vars(self.module)) - self._before

    def undo(self, library: str) -> None:
        if type(self.module) is not self.kind and issubclass(type(self.module), self.kind):
            self.module.__class__ = self.kind
        if self.module._parameters is not self.parameters:
            # Another dictionary took the place of this one. A method may have changed what is in it.
            now = dict(self.module._parameters)
            self.module._parameters = self.parameters
            self.parameters.clear()
            self.parameters.update(now)
        for name in HOOKS:
            hooks = getattr(self.module, name)
            for key in [key for key, hook in hooks.items() if _is_of(hook, library)]:
                del hooks[key]
        for name in self._added:
            vars(self.module).pop(name, None)


def _is_of(hook: Any, library: str) -> bool:
    """Tell whether a library has registered a hook; torch puts some of them into objects of its own."""
    return any(str(getattr(f, "__module__", "")).partition(".")[0] == library for f in _functions(hook))


def _functions(hook: Any) -> Iterator[Any]:
    yield from (hook, getattr(hook, "hook", None), getattr(hook, "func", None))
