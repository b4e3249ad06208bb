"""Find and undo what code has changed outside of the model it was given: functions and classes of libraries, settings.

A function of PEFT or transformers that one method has replaced would also be used by the next method in this process.
"""

from __future__ import annotations

import gc
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# The parts of libraries that models, their training and their adapters use.
LIBRARIES = (
    "torch.nn", "torch.optim", "torch.autograd", "transformers.models", "transformers.modeling_utils",
    "transformers.trainer", "transformers.integrations", "peft", "bitsandbytes", "accelerate", "safetensors",
    "adapterzoo",
)  # fmt: skip
ALONE = ("torch", "torch._tensor", "random", "numpy.random", "math", "time")
"""modules without those below them"""
FUNCTIONS = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, type, property, classmethod, staticmethod
)  # fmt: skip
CONTAINERS = (list, dict, set)
MISSING = object()
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
        self._owners = [(owner, _described(vars(owner))) for owner in owners]
        self._environment = dict(os.environ)
        self._filters = list(warnings.filters)
        self._settings = {name: read() for name, (read, _) in _settings().items()}

    def restore(self) -> list[str]:
        """Undo all changes since the world was recorded; return their names."""
        changed = []
        for name, container, before in self._libraries:
            for key, value in before.items():
                now = vars(container).get(key, MISSING)
                if now is value or not isinstance(value, FUNCTIONS) or key in OWN_ATTRIBUTES or _is_hook(now):
                    continue
                changed.append(f"{name}.{key}")
                setattr(container, key, value)
        for owner, before in self._owners:
            name = getattr(owner, "name", type(owner).__name__)
            now = _described(vars(owner))
            changed += [f"{name}.{key}" for key in {*before, *now} if before.get(key) != now.get(key)]
        if dict(os.environ) != self._environment:
            # Libraries set new variables when they are imported or compile code, which is no reason to blame a method.
            changed += [
                f"the environment variable {name}"
                for name, value in self._environment.items()
                if os.environ.get(name) != value
            ]
            os.environ.clear()
            os.environ.update(self._environment)
        for name, (read, write) in _settings().items():
            if read() != self._settings[name]:
                changed.append(name)
                write(self._settings[name])
        if any(rule[0] == "error" for rule in warnings.filters if rule not in self._filters):
            changed.append("the filters of warnings")
            warnings.filters[:] = self._filters  # type: ignore[index]
        return changed


@contextmanager
def put_right(say: Callable[[str], None], *owners: Any) -> Iterator[None]:
    """Undo afterwards what code changes outside of its model, and say what that was.

    Args:
        say: is called with one sentence if something was changed.
        owners: objects, such as a method, whose attributes must not change either.
    """
    world = World(*owners)
    try:
        yield
    finally:
        if changed := world.restore():
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


def _is_recorded(name: str) -> bool:
    return name in ALONE or any(name == library or name.startswith(f"{library}.") for library in LIBRARIES)


def _is_hook(function: Any) -> bool:
    """Tell whether a function is the one that torch itself puts around an optimizer's ``step``."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == sys.modules["torch.optim.optimizer"].__file__


def _described(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies the values of attributes: the values of containers, and the identity of other objects."""
    return {name: repr(value) if isinstance(value, CONTAINERS) else id(value) for name, value in attributes.items()}


def _settings() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return name -> the functions that read and write a global setting."""
    settings: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "the garbage collector": (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        "the working directory": (os.getcwd, os.chdir),
        "the limit of recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
    }
    if (torch := sys.modules.get("torch")) is not None:
        settings |= {
            "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
            "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
            "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
            "torch's precision of matrix products": (
                torch.get_float32_matmul_precision,
                torch.set_float32_matmul_precision,
            ),
            "torch's deterministic algorithms": (
                torch.are_deterministic_algorithms_enabled,
                torch.use_deterministic_algorithms,
            ),
            "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        }
    return settings
