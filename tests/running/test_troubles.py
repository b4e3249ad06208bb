"""Check that the trouble of one cell is its own: its row says so, and all other rows are what they would have been.

ADAPTERZOO_TROUBLES=full also makes a run for each change that a method may leave behind, which takes minutes.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import pkgutil
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import Result

from adapterzoo.machine.limits import TooLongError
from adapterzoo.methods.registry import registry
from adapterzoo.results.reading import read_result
from adapterzoo.running import worker

VICTIM = "ia3"
TIME_LIMIT = 15
QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0", "--set", "train.steps=2")
FULL = bool(os.environ.get("ADAPTERZOO_TROUBLES"))


class StrangeError(BaseException):
    """An error that no ``except Exception`` catches."""


def raise_it(error: BaseException) -> Any:
    raise error


def spoil_weights(when: str) -> list[Any]:
    """Return a callback that makes all weights NaN, in training or after it."""
    from transformers import TrainerCallback

    class Spoils(TrainerCallback):
        pass

    def spoil(self: Any, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        for parameter in model.parameters():
            parameter.data.fill_(float("nan"))

    setattr(Spoils, when, spoil)
    return [Spoils()]


def limited(allocate: Callable[[], Any]) -> None:
    """Allocate memory in a process that may have only a little more than it has."""
    size = psutil.Process().memory_info().vms + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    allocate()


def torch_memory() -> Any:
    import torch

    return torch.ones(2**32)


def hang() -> None:
    """Do not end, whatever signal asks for it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(3600)


FAILURES: dict[str, tuple[Callable[[], Any], str]] = {
    "exception": (lambda: raise_it(ValueError("no")), "ValueError: no"),
    "base-exception": (lambda: raise_it(StrangeError("no")), "StrangeError: no"),
    "no-memory": (lambda: limited(lambda: bytearray(2**34)), "out of memory: "),
    "no-memory-for-torch": (lambda: limited(torch_memory), "out of memory: "),
    "nan-in-training": (lambda: spoil_weights("on_step_end"), "the loss became nan at step 2"),
    "nan-after-training": (lambda: spoil_weights("on_train_end"), "the test loss is nan"),
    "infinite-metric": (list, "oddness became inf"),
    "hang": (hang, f"it took longer than train.time_limit, {TIME_LIMIT} seconds"),
    "abort": (os.abort, "its process was ended by SIGABRT"),
}
"""label -> what the method does, and how its error begins"""
IN_THIS_PROCESS = ("exception", "base-exception", "nan-in-training", "nan-after-training", "infinite-metric")


def patch(owner: str, name: str, replacement: Any = None) -> None:
    setattr(pkgutil.resolve_name(owner), name, replacement or (lambda *_, **__: None))


def leak_mode() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Doubles(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            return found * 2 if "mm" in str(function) else found

    Doubles().__enter__()


def torch_call(name: str, *arguments: Any) -> Callable[[], Any]:
    def call() -> Any:
        import torch

        function: Any = torch
        for part in name.split("."):
            function = getattr(function, part)
        return function(*arguments)

    return call


def autocast() -> None:
    import torch

    torch.autocast("cpu", torch.bfloat16).__enter__()


def double() -> None:
    import torch

    torch.set_default_dtype(torch.float64)


def hook() -> None:
    import torch

    torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output * 2 if isinstance(output, torch.Tensor) else None
    )


def draw() -> None:
    """Draw random numbers all the time, in a thread that ends with the process."""
    import torch

    def forever() -> None:
        while True:
            torch.rand(1), random.random()
            time.sleep(0.001)

    threading.Thread(target=forever, daemon=True).start()


def reverse_rows() -> list[Any]:
    from transformers import TrainerCallback

    class Reverses(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any, **_: Any) -> None:
            train_dataloader.dataset.reverse()

    return [Reverses()]


CHANGES: dict[str, Callable[[], Any]] = {
    "directory": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update({"ACCELERATE_MIXED_PRECISION": "bf16", "HOME": "/"}),
    "random state": lambda: (random.seed(5), torch_call("manual_seed", 5)()),
    "default dtype": double,
    "warnings": lambda: warnings.simplefilter("error"),
    "logging": lambda: logging.disable(logging.CRITICAL),
    "signals": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "garbage collector": gc.disable,
    "recursion": lambda: sys.setrecursionlimit(400),
    "autocast": autocast,
    "gradients off": torch_call("set_grad_enabled", False),
    "default device": torch_call("set_default_device", "meta"),
    "oneDNN": torch_call("_C._set_mkldnn_enabled", False),
    "dispatch mode": leak_mode,
    "hook": hook,
    "functional.linear": lambda: patch("torch.nn.functional", "linear"),
    "Linear.forward": lambda: patch("torch.nn:Linear", "forward", lambda self, x: x * 0),
    "AdamW": lambda: patch("torch.optim:AdamW", "step"),
    "set_seed": lambda: (patch("transformers", "set_seed"), patch("transformers.trainer_utils", "set_seed")),
    "Trainer": lambda: patch("transformers.trainer:Trainer", "training_step"),
    "PEFT": lambda: patch("peft.tuners.ia3.layer:Linear", "forward", lambda self, x, *_, **__: x * 0),
}
"""what a method changes outside of its model, in a way that would change other rows or make them fail"""
ONLY_IN_A_PROCESS: dict[str, Callable[[], Any]] = {
    "thread": lambda: threading.Thread(target=time.sleep, args=(3600,)).start(),
    "random thread": draw,
    "files": lambda: os.closerange(60, 200),
}
"""the same, but what is left behind cannot be undone in the process of the next cell"""


def change_all(changes: dict[str, Callable[[], Any]]) -> list[Any]:
    callbacks: list[Any] = []
    for change in changes.values():
        found = change()
        callbacks += found if isinstance(found, list) else []
    return callbacks


@pytest.fixture
def troubled(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., tuple[Result, dict[str, dict[str, Any]]]]]:  # fmt: skip
    """Return a function that runs cells that do something, and after them the victim; it checks the victim's files."""
    alone = write_recipe(VICTIM, name="alone.yaml")
    assert adapterzoo("run", alone, *QUIET, "--out", tmp_path / "alone").exit_code == 0
    todo: list[Callable[[], Any]] = []
    # The number of the trouble is the cell's lora_alpha, because a method does not know its label.
    monkeypatch.setattr(type(registry()["lora"]), "callbacks", lambda self, options, context: _done(options))

    measure = worker.measure

    def measured(prepared: Any, cell: Any, *arguments: Any) -> Any:
        found = measure(prepared, cell, *arguments)
        odd = {"oddness": math.inf} if cell.label == "infinite-metric" else {}
        return found._replace(metrics={**found.metrics, **odd})

    monkeypatch.setattr(worker, "measure", measured)

    def _done(options: Any) -> list[Any]:
        found = todo[int(options.lora_alpha) - 1]()
        return found if isinstance(found, list) else []

    def run(troubles: dict[str, Callable[[], Any]], *arguments: Any) -> tuple[Result, dict[str, dict[str, Any]]]:
        todo[:] = troubles.values()
        entries = [f"{{name: lora, label: {label}, lora_alpha: {n + 1}}}" for n, label in enumerate(troubles)]
        recipe, out = write_recipe(", ".join([*entries, VICTIM])), tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        done = adapterzoo("run", recipe, *QUIET, *arguments, "--out", out)
        for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "predictions.jsonl"):
            path = Path(VICTIM, "seed-0", name)
            assert (out / path).read_bytes() == (tmp_path / "alone" / path).read_bytes(), done.stderr
        return done, {path.parts[-3]: json.loads(path.read_text()) for path in out.glob("*/seed-0/result.json")}

    before = gc.isenabled(), os.getcwd(), signal.getsignal(signal.SIGINT)
    yield run
    gc.enable() if before[0] else gc.disable()
    os.chdir(before[1])
    signal.signal(signal.SIGINT, before[2])


def spawn(path: Path) -> Callable[[], None]:
    """Return a function that starts a process that does not end, and writes its number to a file."""

    def start() -> None:
        path.write_text(str(subprocess.Popen(["sleep", "3600"]).pid))

    return start


def test_in_a_process_of_its_own_no_trouble_reaches_another_row(
    troubled: Callable[..., tuple[Result, dict[str, dict[str, Any]]]], tmp_path: Path
) -> None:
    troubles = {label: trouble for label, (trouble, _) in FAILURES.items()}
    troubles["changes"] = lambda: change_all({**CHANGES, **ONLY_IN_A_PROCESS})
    troubles["rows"] = reverse_rows
    troubles["child"] = spawn(tmp_path / "child")
    done, rows = troubled(troubles, "--jobs", "2", "--set", f"train.time_limit={TIME_LIMIT}")
    assert done.exit_code == 1
    for label, (_, error) in FAILURES.items():
        assert rows[label]["status"] == "failed"
        assert rows[label]["error"].startswith(error), rows[label]["error"]
        assert f"{label} failed: {error}" in " ".join(done.stdout.split())
    assert rows["child"]["status"] == "ok"
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int((tmp_path / "child").read_text())).status() == psutil.STATUS_ZOMBIE


def test_in_this_process_what_a_cell_changes_is_put_right(
    troubled: Callable[..., tuple[Result, dict[str, dict[str, Any]]]], tmp_path: Path
) -> None:
    """All cells share a process here, and what one of them changes is undone before the next one begins."""
    troubles = {label: FAILURES[label][0] for label in IN_THIS_PROCESS}
    troubles |= {"hang": lambda: time.sleep(3600), "rows": reverse_rows, "changes": lambda: change_all(CHANGES)}
    done, rows = troubled(troubles, "--jobs", "0", "--set", f"train.time_limit={TIME_LIMIT}")
    for label in (*IN_THIS_PROCESS, "hang"):
        assert rows[label]["error"].startswith(FAILURES[label][1]), rows[label]["error"]
    assert "changes: changed outside of its model, and put right: " in done.stderr


@pytest.mark.parametrize(("limit", "status"), [("0.001", "failed"), ("600", "ok")])
def test_a_limit_that_is_reached_before_or_after_the_work_of_a_cell_ends_no_run(
    limit: str, status: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def too_late() -> None:
        monkeypatch.undo()
        raise TooLongError

    if status == "ok":
        monkeypatch.setattr(worker, "free_memory", too_late)
    quiet = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0", "--jobs", "0")
    done = adapterzoo("run", write_recipe("ia3"), *quiet, "--set", f"train.time_limit={limit}", "--out", tmp_path / "o")
    assert done.exit_code == (0 if status == "ok" else 1), done.output
    assert read_result(tmp_path / "o" / "ia3" / "seed-0" / "result.json").status == status


@pytest.mark.skipif(not FULL, reason="ADAPTERZOO_TROUBLES=full makes a run for each change")
@pytest.mark.parametrize("jobs", [0, 1])
@pytest.mark.parametrize("name", [*CHANGES])
def test_each_change_alone(
    name: str, jobs: int, troubled: Callable[..., tuple[Result, dict[str, dict[str, Any]]]]
) -> None:
    troubled({"changes": lambda: change_all({name: CHANGES[name]})}, "--jobs", jobs)
