"""Load a saved adapter where its users do: in another process, at another time, from a folder that was moved."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.util
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import PluginError
from adapterzoo.machine.fresh_process import DONE, FreshProcess
from adapterzoo.machine.processes import Process, Send, can_fork, set_threads, wait_for_any
from adapterzoo.methods.contract import Context, Method

if TYPE_CHECKING:
    import torch
    from torch import nn

LIMIT_SECONDS = 60.0
"""longest time for loading and answering"""
START_SECONDS = 300.0
"""longest time until the other process has started and answers"""
DAYS_LATER = 400
HASH_SEED = "4711"
OTHER_SEED = 987654321
# Files below these folders belong to Python and the system. All other files that load() opens must be in its folder.
CODE = (".py", ".pyc", ".so")
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/run")


class ElsewhereError(Exception):
    """A saved adapter could not be used in another process; the message says why."""


@dataclass(frozen=True)
class Visit:
    """A saved adapter, and what is needed to use it in another process."""

    method: MethodPlace
    architecture: str
    model: Path
    """folder of the tiny model"""
    quantization: str
    options: dict[str, Any]
    context: Context
    adapter: Path
    """folder that ``save`` wrote, and that was moved since"""
    merged: Path | None = None
    """folder of the merged model, if there is one"""


@dataclass(frozen=True)
class MethodPlace:
    """The place where another process finds a method: its name in the registry, or its class."""

    name: str
    module: str
    file: str | None
    qualified_name: str

    @classmethod
    def of(cls, method: Method[Any]) -> MethodPlace | None:
        """Return the place of a method; None if no process can find it.

        That is so if it is not installed, and its class is inside a function.
        """
        from adapterzoo.methods.registry import registry

        kind = type(method)
        module = sys.modules.get(kind.__module__)
        if registry().get(method.name) is not method and _follow(module, kind.__qualname__) is not kind:
            return None
        return cls(method.name, kind.__module__, getattr(module, "__file__", None), kind.__qualname__)

    def find(self) -> Method[Any]:
        """Return the method, in another process."""
        from adapterzoo.methods.registry import registry

        installed = registry().get(self.name)
        if installed is not None and type(installed).__module__ == self.module:
            return installed
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            module = self._load_file()
        found: Method[Any] = _follow(module, self.qualified_name)()
        return found

    def _load_file(self) -> Any:
        """Load the module from its file, as a test's module or a script, which cannot be imported by name."""
        specification = importlib.util.spec_from_file_location(self.module, self.file or "")
        if specification is None or specification.loader is None:
            raise PluginError(f"the module {self.module} of the method {self.name} cannot be imported")
        module = importlib.util.module_from_spec(specification)
        sys.modules[self.module] = module
        specification.loader.exec_module(module)
        return module


def _follow(module: Any, qualified_name: str) -> Any:
    """Return the object with this name in a module; None if there is none."""
    found = module
    for name in qualified_name.split("."):
        found = getattr(found, name, None)
    return found


@cache
def _process() -> FreshProcess:
    """Return the process in which adapters are loaded. Its own children do the loading, so that it stays fresh."""
    return FreshProcess(Host(), 1, {"PYTHONHASHSEED": HASH_SEED})


def start() -> None:
    """Start the other process, before a method can change this one; it needs some seconds for its imports."""
    if not _process().alive:
        _process().kill()
        _process.cache_clear()
        _process()


def answers(visit: Visit) -> dict[str, torch.Tensor]:
    """Return the logits of a saved adapter, and of a merged model, in another process.

    Raises:
        ElsewhereError: loading raised an error, or read files outside of its folder, or took too long.
    """
    process, answer = _process(), None
    process.give(replace(visit, context=replace(visit.context, batches=tuple)))
    begun = time.monotonic()
    while time.monotonic() < begun + START_SECONDS:
        wait_for_any([process])
        for message in process.messages():
            if message == DONE:
                if isinstance(answer, str):
                    raise ElsewhereError(answer)
                assert answer is not None
                return {name: _tensor(values) for name, values in answer.items()}
            answer = message
        if not process.alive:
            break
    _process.cache_clear()
    process.kill()
    raise ElsewhereError(f"its process has ended, or took longer than {START_SECONDS:.0f} seconds")


class Host:
    """Does the work of the other process: it holds base models, and lets a child of its own load each adapter."""

    def __init__(self) -> None:
        self.ready = False
        self.used = set[tuple[str, str, str]]()

    def __call__(self, visit: Visit, send: Send) -> None:
        """Send the logits of an adapter, or a text that says why there are none."""
        from adapterzoo.conformance import models

        if not self.ready:
            os.chdir("/")
            _change_the_date()
            self.ready = True
        models.FOLDERS[visit.architecture] = visit.model
        # Do here what is the same for every method, so that each child finds it done.
        self._warm_up(visit)
        if not can_fork():
            _send_answers(visit, send)
            return
        child, begun = Process(partial(_send_answers, visit), 1), time.monotonic()
        answer: Any = None
        while child.alive and time.monotonic() < begun + LIMIT_SECONDS:
            wait_for_any([child])
            for message in child.messages():
                answer = message
        for message in child.messages():
            answer = message
        if answer is None:
            late = f"load() took longer than {LIMIT_SECONDS:.0f} seconds"
            answer = late if child.alive else child.failure() or "its process sent nothing"
        child.kill()
        send(answer)

    def _warm_up(self, visit: Visit) -> None:
        """Load the base model and use it, and import what loads most adapters."""
        import peft  # noqa: F401

        from adapterzoo.conformance import measure, models
        from adapterzoo.methods.registry import registry

        registry()
        task_type = visit.context.task_type
        model = models.tiny_base(visit.architecture, visit.quantization, task_type=task_type).get_model()
        if (key := (visit.architecture, visit.quantization, task_type)) not in self.used:
            self.used.add(key)
            measure.logits(model, models.rows() if task_type == models.CAUSAL else models.rows_for(task_type))


def _send_answers(visit: Visit, send: Send) -> None:
    from adapterzoo.conformance.differences import describe_error

    try:
        send({name: values.numpy() for name, values in _answers(visit).items()})
    except ElsewhereError as error:
        send(str(error))
    except (Exception, SystemExit) as error:  # the method under test may raise anything
        send(f"load() raised {describe_error(error)}")


def _answers(visit: Visit) -> dict[str, torch.Tensor]:
    from adapterzoo.conformance import models
    from adapterzoo.conformance.measure import logits
    from adapterzoo.methods.contract import load_adapter
    from adapterzoo.model.head import load_head

    task_type = visit.context.task_type
    rows = models.rows_for(task_type) if task_type != models.CAUSAL else models.rows()
    _seed_otherwise()
    method = visit.method.find()
    found = {}
    with models.tiny_base(visit.architecture, visit.quantization, task_type=task_type).borrow() as model:
        load_head(model, visit.adapter)
        with _opened_files() as opened:
            set_threads(2)
            wrapped = load_adapter(method, model, visit.adapter, method.options(**visit.options), visit.context)
            set_threads(1)
        if outside := [path for path in opened if not _is_allowed(path, visit)]:
            raise ElsewhereError(f"load() reads {outside[0]}, outside of the folder of the adapter")
        found["elsewhere"] = logits(wrapped, rows)
        if task_type == models.CAUSAL and visit.quantization == "none":
            found["elsewhere, many rows"] = logits(wrapped, models.many_rows())
    if visit.merged is not None:
        found["merged elsewhere"] = logits(_plain_model(visit.merged), rows)
    return found


def _plain_model(folder: Path) -> nn.Module:
    """Return a merged model as transformers alone loads it."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32", use_safetensors=True)
    return model


@contextlib.contextmanager
def _opened_files() -> Iterator[list[str]]:
    """Yield a list of the files that are opened for reading meanwhile. The hook stays, so a process uses this once."""
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], (str, bytes)):
            opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)
    try:
        yield opened
    finally:
        watching = False


def _is_allowed(path: str, visit: Visit) -> bool:
    """Tell whether load() may open a file: one of the adapter's or the model's, or of Python's and the system's."""
    whole = os.path.abspath(path)
    if whole.endswith(CODE):
        return True
    roots = [str(visit.adapter), str(visit.model), sys.prefix, sys.base_prefix, *filter(None, sys.path), *SYSTEM]
    return any(whole.startswith(f"{os.path.abspath(root)}{os.sep}") for root in roots) or not os.path.isfile(whole)


def _seed_otherwise() -> None:
    """Give every random generator another state than in the process that trained."""
    import numpy as np
    import torch

    random.seed(OTHER_SEED)
    np.random.seed(OTHER_SEED)
    torch.manual_seed(OTHER_SEED)


def _change_the_date() -> None:
    """Make Python's clocks show a day more than a year from now."""
    # These read the classes of datetime when they are imported, and crash if they find others.
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401

    later = datetime.timedelta(days=DAYS_LATER)
    seconds, nanoseconds = time.time, time.time_ns
    now, today = datetime.datetime.now, datetime.date.today

    class Date(datetime.date):
        @classmethod
        def today(cls) -> Any:
            return today() + later

    class DateTime(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now(tz) + later

        @classmethod
        def today(cls) -> Any:
            return now() + later

    time.time = lambda: seconds() + later.total_seconds()
    time.time_ns = lambda: nanoseconds() + int(later.total_seconds() * 1e9)
    datetime.date, datetime.datetime = Date, DateTime  # type: ignore[misc]


def _tensor(values: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(values)
