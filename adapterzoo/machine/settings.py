"""Read and write the global settings of Python and torch that a method may change."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

DEVICES = ("cpu", "cuda")
UNCHANGEABLE_SIGNALS = {getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)}


def global_settings() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return name -> the functions that read and write a global setting."""
    settings: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "the garbage collector": (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        "the working directory": (os.getcwd, os.chdir),
        "the limit of recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
        "the handlers of signals": (_handlers, _set_handlers),
        "the level of logging": (lambda: logging.root.manager.disable, logging.disable),
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
            "torch's autocast": (_autocast, _set_autocast),
            "torch's default device": (torch.get_default_device, _set_default_device),
            "torch's modes": (_modes, _pop_modes),
            "torch's use of oneDNN": (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
            "torch's hooks of all modules": (_hooks_of_all_modules, _set_hooks_of_all_modules),
        }
    return settings


def _handlers() -> dict[int, Any]:
    """Return the handlers of signals; only the main thread may set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in signal.valid_signals() - UNCHANGEABLE_SIGNALS}


def _set_handlers(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:  # None: not set by Python
            signal.signal(number, handler)


def _autocast() -> dict[str, tuple[bool, Any]]:
    """Return device -> whether autocast is on, and its dtype."""
    import torch

    return {device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in DEVICES}


def _set_autocast(states: Mapping[str, tuple[bool, Any]]) -> None:
    import torch

    for device, (enabled, dtype) in states.items():
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)


def _set_default_device(device: Any) -> None:
    import torch

    torch.set_default_device(None if device.type == "cpu" else device)  # None removes the mode that sets the device


def _modes() -> tuple[int, int]:
    """Return how many modes change what torch's functions and operators do."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    return len(_get_current_function_mode_stack()), len(_get_current_dispatch_mode_stack())


def _pop_modes(wanted: tuple[int, int]) -> None:
    from torch import overrides
    from torch.utils import _python_dispatch

    while _modes()[0] > wanted[0]:
        overrides._pop_mode()
    while _modes()[1] > wanted[1]:
        _python_dispatch._pop_mode()


def _hooks_of_all_modules() -> dict[str, dict[int, Any]]:
    """Return the hooks that torch calls for every module, by the name of their list."""
    from torch.nn.modules import module

    lists = {name: hooks for name, hooks in vars(module).items() if name.startswith("_global_")}
    return {name: dict(hooks) for name, hooks in lists.items() if isinstance(hooks, dict)}


def _set_hooks_of_all_modules(hooks: Mapping[str, Mapping[int, Any]]) -> None:
    from torch.nn.modules import module

    for name, wanted in hooks.items():
        getattr(module, name).clear()
        getattr(module, name).update(wanted)
