"""The other process, in which saved adapters are loaded: it runs at another time, and everything in it is new."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.method_place import MethodPlace
from adapterzoo.machine.processes import Process, Send, can_fork, set_threads, wait_for_any
from adapterzoo.methods.contract import Context

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.tokens.batches import Tokens

LIMIT_SECONDS = 60.0
"""longest time for loading and answering"""
DAYS_LATER = 400
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
    from adapterzoo.methods.calls import load_adapter
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
            if method.loads_in_peft:
                found["in plain PEFT"] = peft_logits(visit.model, visit.adapter, [row.tokens for row in rows.test])
    if visit.merged is not None:
        found["merged elsewhere"] = logits(_plain_model(visit.merged), rows)
    return found


def peft_logits(base: Path, adapter: Path, rows: Sequence[Tokens]) -> torch.Tensor:
    """Return the logits of each row alone, with the base and the adapter as transformers and PEFT alone load them.

    Raises:
        ElsewhereError: PEFT cannot use the adapter.
    """
    import torch
    from peft import PeftModel

    from adapterzoo.conformance.differences import describe_error

    try:
        model = PeftModel.from_pretrained(_plain_model(base), str(adapter)).eval()
        with torch.no_grad():
            # A learned prompt has logits too, in front of the row's.
            return torch.cat([model(torch.tensor([ids])).logits[0, -len(ids) :] for ids, _ in rows])
    except Exception as error:  # PEFT raises errors of many kinds for files that it cannot use
        message = f"plain PEFT cannot use the adapter ({describe_error(error)}); declare loads_in_peft = False"
        raise ElsewhereError(message) from error


def _plain_model(folder: Path) -> nn.Module:
    """Return a model as transformers alone loads it."""
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
    # torch builds the extensions of libraries here, and locks them while it does.
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.expanduser("~/.cache/torch_extensions")
    libraries = [sys.prefix, sys.base_prefix, *filter(None, sys.path), extensions]
    roots = [str(visit.adapter), str(visit.model), *libraries, *SYSTEM]
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
