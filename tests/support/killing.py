"""Run a recipe in a process that sends itself or its parent a signal at a chosen file or step, and compare folders."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from tiny import RECIPE, make_data, make_model

KINDS = (
    (signal.SIGKILL, "run"), (signal.SIGKILL, "worker"), (signal.SIGTERM, "run"), (signal.SIGTERM, "worker"),
    (signal.SIGINT, "run"),
)  # fmt: skip
"""signals and the processes that get them"""
METHODS = "lora, adalora"
TUNE = "jobs: 2\ntune: {learning_rate: {low: 1.0e-4, high: 1.0e-2, trials: 2}}\n"
WAIT_SECONDS = 60.0
VARYING = re.compile(r"tmp\w{8}|\d+")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
# These differ between two runs of the same recipe.
MEASURED = {
    "seconds", "train_seconds", "evaluate_seconds", "answer_seconds", "tokens_per_second", "peak_memory_bytes",
    "positions_per_token", "environment", "times", "threads", "digest",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A moment of a run: the n-th time that one of its processes does something."""

    what: str
    """a process, an event and a file, without numbers; or a step of the training"""
    count: int
    number: int
    """number of the signal"""
    target: str
    """``run`` or ``worker``: the process that gets the signal"""

    def __str__(self) -> str:
        return f"{signal.Signals(self.number).name} to the {self.target} at {self.what}, time {self.count}"


def trials(folder: Path, spread: int, draw: Any, limit: int | None = None) -> Iterator[tuple[Point, list[str]]]:
    """Yield points, each with what is wrong after a run was disturbed there and its command was given again.

    Args:
        folder: an empty folder.
        spread: how many points there are of each kind of event.
        draw: a seeded ``random.Random``.
        limit: largest number of points, drawn from all.
    """
    recipe, log = folder / "recipe.yaml", folder / "log"
    text = RECIPE.format(model=make_model(folder / "model"), data=make_data(folder / "verbs.csv"), methods=METHODS)
    recipe.write_text(text.replace("steps: 6", "steps: 6\n  save_steps: 2") + TUNE)
    whole = folder / "whole"
    assert wait(start(partial(_run, recipe, whole), whole, log)) == 0
    chosen = list(points(log, spread, draw))
    chosen = sorted(draw.sample(chosen, min(limit or len(chosen), len(chosen))), key=str)
    for number, point in enumerate(chosen):
        trial = folder / f"trial-{number}"
        wait(start(partial(_run, recipe, trial), trial, point=point))
        code = wait(start(partial(_run, recipe, trial), trial))
        problems = (
            [f"the second run ended with exit code {code}"] if code else differences(whole / "out", trial / "out")
        )
        yield point, problems
        if not problems:
            shutil.rmtree(trial)


def _run(recipe: Path, folder: Path) -> None:
    """Run a recipe, with its output folder and its cache in one folder."""
    from adapterzoo.cli import main

    os.environ["ADAPTERZOO_CACHE"] = str(folder / "cache")
    main(["run", str(recipe), "--out", str(folder / "out")])


def start(work: Callable[[], None], folder: Path, log: Path | None = None, point: Point | None = None) -> int:
    """Fork a process that does the work; return its number.

    Args:
        work: runs the recipe into the folder, and ends the process or returns.
        folder: the output folder; what happens to files in it is counted.
        log: file to which every event is written.
        point: the moment at which a signal is sent.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _watch(folder, log, point)
        work()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    finally:
        os._exit(code)


def wait(process: int) -> int:
    """Wait until a process and all processes of its session have ended; return its exit code, or minus the signal."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    until = time.monotonic() + WAIT_SECONDS
    while left := [other for other in psutil.process_iter(["pid"]) if _session(other.pid) == process]:
        if time.monotonic() > until:
            raise AssertionError(f"{len(left)} processes are left of a run that was ended")
        time.sleep(0.02)
    return status


def points(log: Path, spread: int, draw: Any) -> Iterator[Point]:
    """Yield points at every kind of event of a log, each with one of ``KINDS``, drawn at random.

    Args:
        log: the events of a run that was not disturbed.
        spread: how many points there are of each kind of event.
        draw: a seeded ``random.Random``.
    """
    for what, times in sorted(Counter(log.read_text().splitlines()).items()):
        for _ in range(spread):
            yield Point(what, draw.randint(1, times), *draw.choice(KINDS))


def differences(first: Path, second: Path) -> list[str]:
    """Return the files that differ in two output folders; of results and notes, the values that are no measurements."""
    names = {path.relative_to(folder).as_posix() for folder in (first, second) for path in folder.rglob("*")}
    different = []
    for name in sorted(names):
        paths = first / name, second / name
        # The journal holds times; the trials in it are also in the results.
        if name == ".lock" or name.endswith("tuning.journal") or all(path.is_dir() for path in paths):
            continue
        if not all(path.is_file() for path in paths):
            different.append(f"{name} is missing")
        elif name.endswith(".json") and "/adapter/" not in name:
            contents = [_without_measurements(json.loads(path.read_text())) for path in paths]
            different += [f"{name}: {key}" for key in contents[0] if contents[0][key] != contents[1].get(key)]
        elif paths[0].read_bytes() != paths[1].read_bytes():
            different.append(name)
    return different


def _without_measurements(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_measurements(value) for key, value in content.items() if key not in MEASURED}
    return [_without_measurements(value) for value in content] if isinstance(content, list) else content


def _session(process: int) -> int:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return 0


def _watch(folder: Path, log: Path | None, point: Point | None) -> None:
    """Note every event of this process and its children, and send the signal at the point."""
    from adapterzoo.training import trainer

    run, root = os.getpid(), f"{folder}{os.sep}"
    counted = mmap.mmap(-1, 8)  # shared with the processes that are forked from this one
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else None

    def happened(what: str) -> None:
        what = f"{'run' if os.getpid() == run else 'worker'} {VARYING.sub('N', what)}"
        if file is not None:
            os.write(file, f"{what}\n".encode())
        if point is not None and what == point.what:
            (count,) = struct.unpack("q", counted[:])
            counted[:] = struct.pack("q", count + 1)
            if count + 1 == point.count:
                os.kill(run if point.target == "run" else os.getpid(), point.number)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            name = "write"
        elif event in FILE_EVENTS:
            name = event.rpartition(".")[2]
        else:
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
        if path.startswith(root):
            happened(f"{name} {path.removeprefix(root)}")

    compute_loss = trainer.TaskTrainer.compute_loss

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        happened("step")
        return compute_loss(self, *args, **kwargs)

    trainer.TaskTrainer.compute_loss = counting  # type: ignore[method-assign]
    sys.addaudithook(hook)
