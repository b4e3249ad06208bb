"""Find and undo what code has changed outside of the model it was given: functions and classes of libraries, settings.

A function of PEFT or transformers that one method has replaced would also be used by the next method in this process.
"""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from adapterzoo.machine.settings import global_settings

# The parts of libraries that models, their training and their adapters use.
LIBRARIES = tuple(f"{name}." for name in (
    "torch.nn", "torch.optim", "torch.autograd", "torch.utils.data", "transformers.models",
    "transformers.modeling_utils", "transformers.trainer", "transformers.trainer_utils",
    "transformers.trainer_pt_utils", "transformers.trainer_callback", "transformers.optimization",
    "transformers.generation", "transformers.integrations", "peft", "bitsandbytes", "accelerate", "safetensors",
    "adapterzoo",
))  # fmt: skip
ALONE = ("torch", "torch._tensor", "transformers", "random", "numpy.random", "math", "time")
"""modules without those below them"""
FUNCTIONS = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, type, property, classmethod, staticmethod
)  # fmt: skip
CONTAINERS = (list, dict, set)
MISSING = object()
# New environment variables with these names change what processes compute that are started later.
INHERITED = ("PYTHON", "OMP_", "MKL_", "HF_", "TRANSFORMERS_", "ADAPTERZOO_", "CUDA_VISIBLE_DEVICES")
OPTIMIZER = "torch.optim.optimizer"
# Python and its tools set these themselves.
OWN_ATTRIBUTES = frozenset({
    "__doc__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__", "_abc_impl", "__signature__",
})  # fmt: skip


class World:
    """The functions and classes of the loaded libraries and the global settings, as they were at one moment."""

    def __init__(self, *owners: Any) -> None:
        """Record the world.

        Args:
            owners: objects, such as a method, whose attributes are recorded too.
        """
        self._libraries = list(_libraries())
        self._tables = [(name, table, dict(table)) for name, table in _tables(self._libraries)]
        self._owners = [(owner, _described(_attributes(owner))) for owner in owners]
        self._environment = dict(os.environ)
        self._filters = list(warnings.filters)
        self._settings = {name: read() for name, (read, _) in global_settings().items()}

    def restore(self) -> list[str]:
        """Undo all changes since the world was recorded; return their names."""
        changed = []
        for name, container, before in self._libraries:
            attributes = vars(container)
            for key, value in before.items():
                now = attributes.get(key, MISSING)
                if now is value or not isinstance(value, FUNCTIONS) or key in OWN_ATTRIBUTES:
                    continue
                if _unhooked(now) is _unhooked(value):
                    continue
                changed.append(f"{name}.{key}")
                setattr(container, key, value)
            for key in _overriding(container, before):
                changed.append(f"{name}.{key}")
                delattr(container, key)
        for name, table, content in self._tables:
            if replaced := [key for key, value in content.items() if table.get(key) is not value]:
                changed.append(f"{name}[{replaced[0]!r}]")
                table.update({key: content[key] for key in replaced})
        for owner, before in self._owners:
            name = getattr(owner, "name", type(owner).__name__)
            now = _described(_attributes(owner))
            changed += [f"{name}.{key}" for key in {*before, *now} if before.get(key) != now.get(key)]
        if dict(os.environ) != self._environment:
            # Libraries set other new variables when they are imported or compile code.
            changed += [
                f"the environment variable {name}"
                for name in {*self._environment, *os.environ}
                if os.environ.get(name) != self._environment.get(name)
                and (name in self._environment or name.startswith(INHERITED))
            ]
            os.environ.clear()
            os.environ.update(self._environment)
        for name, (read, write) in global_settings().items():
            if read() != self._settings[name]:
                changed.append(name)
                write(self._settings[name])
        if any(rule[0] == "error" for rule in warnings.filters if rule not in self._filters):
            changed.append("the filters of warnings")
            warnings.filters[:] = self._filters  # type: ignore[index]
        return changed


@contextmanager
def put_right(say: Callable[[str], None], *owners: Any, also: list[str]) -> Iterator[None]:
    """Undo afterwards what code changes outside of its model, and say what that was.

    Args:
        say: is called with one sentence if something was changed.
        owners: objects, such as a method, whose attributes must not change either.
        also: names of what others put right meanwhile, such as the base model; the list is emptied.
    """
    world = World(*owners)
    try:
        yield
    finally:
        changed = [*dict.fromkeys(also), *world.restore()]
        also.clear()
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            say(f"changed outside of its model, and put right: {', '.join(changed[:3])}{more}")


def _libraries() -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield the name of each module and class of the libraries, the object, and its attributes."""
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or not _is_recorded(name):
            continue
        attributes = dict(vars(module))
        yield name, module, attributes
        for value in attributes.values():
            if isinstance(value, type) and value.__module__ == name and type(value).__setattr__ is type.__setattr__:
                yield f"{name}.{value.__qualname__}", value, dict(vars(value))


def _tables(libraries: Sequence[tuple[str, Any, Mapping[str, Any]]]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield the name and the content of each dictionary of functions or classes, like transformers' of attentions."""
    for name, _, attributes in libraries:
        for key, value in attributes.items():
            if type(value) is dict and value and all(isinstance(entry, FUNCTIONS) for entry in value.values()):
                yield f"{name}.{key}", value


def _attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, and the containers of its class, which are shared by all its objects."""
    shared = {name: value for name, value in vars(type(owner)).items() if isinstance(value, CONTAINERS)}
    return {**shared, **vars(owner)}


def _is_recorded(name: str) -> bool:
    return name in ALONE or f"{name}.".startswith(LIBRARIES)


def _unhooked(function: Any) -> Any:
    """Return a function without those that torch itself puts around an optimizer's ``step``."""
    torch_file = getattr(sys.modules.get(OPTIMIZER), "__file__", None)
    while isinstance(function, types.FunctionType) and hasattr(function, "__wrapped__"):
        if function.__code__.co_filename != torch_file:
            break
        function = function.__wrapped__
    return function


def _overriding(container: Any, before: Mapping[str, Any]) -> list[str]:
    """Return the functions that a class has got since it was recorded, in place of those that it inherits."""
    if not isinstance(container, type):
        return []
    new = {key: value for key, value in vars(container).items() if key not in before and isinstance(value, FUNCTIONS)}
    if not new:
        return []
    inherited = {key: vars(kind)[key] for kind in reversed(container.__mro__[1:]) for key in new if key in vars(kind)}
    return [key for key, value in inherited.items() if _unhooked(new[key]) is not _unhooked(value)]


def _described(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies the values of attributes: the values of containers, and the identity of other objects."""
    return {name: repr(value) if isinstance(value, CONTAINERS) else id(value) for name, value in attributes.items()}
