"""Check that cells run side by side in their own processes, each with the same result, however another one ends."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from cells import assert_same
from click.testing import Result
from forked import Forked
from safetensors.torch import load_file

from adapterzoo.methods.registry import registry

QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")


def rows(out: Path) -> dict[str, dict[str, Any]]:
    results = [json.loads(path.read_text()) for path in out.glob("*/seed-*/result.json")]
    return {f"{result['label']}/{result['seed']}": result for result in results}


def adapters(out: Path) -> dict[str, Any]:
    return {str(path.relative_to(out)): load_file(path) for path in sorted(out.rglob("adapter_model.safetensors"))}


def test_the_number_of_jobs_changes_no_bit_of_any_result(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora, qlora, ia3, adalora", "seeds: [0, 1]\n")
    general = tmp_path / "general.txt"
    general.write_text("Once upon a time.\n\nIt was long ago.\n")
    for jobs in (0, 1, 3):
        sets = ("--set", f"evaluate.general_text={general}", "--jobs", jobs)
        assert adapterzoo("run", recipe, *sets, "--out", tmp_path / str(jobs)).exit_code == 0
    first, metrics = adapters(tmp_path / "0"), {name: row["metrics"] for name, row in rows(tmp_path / "0").items()}
    assert len(first) == 8
    for jobs in ("1", "3"):
        assert {name: row["metrics"] for name, row in rows(tmp_path / jobs).items()} == metrics
        trained = adapters(tmp_path / jobs)
        assert trained.keys() == first.keys()
        for name, tensors in trained.items():
            assert_same(tensors, first[name])


def test_a_method_that_crashes_in_the_dry_run_is_a_failed_row(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(type(registry()["ia3"]), "wrap", crashes)
    assert adapterzoo("check", write_recipe("lora, ia3")).exit_code == 0
    assert adapterzoo("run", write_recipe("lora, ia3"), *QUIET, "--out", tmp_path / "o").exit_code == 1
    assert {name: row["status"] for name, row in rows(tmp_path / "o").items()} == {"lora/0": "ok", "ia3/0": "failed"}


def leaves_a_thread(*_: object) -> list[Any]:
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return []


def test_a_run_does_not_wait_for_a_thread_that_a_method_left_running(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(type(registry()["ia3"]), "callbacks", leaves_a_thread)
    assert adapterzoo("run", write_recipe("ia3"), *QUIET, "--out", tmp_path / "o").exit_code == 0


def crashes(*_: object) -> None:
    ctypes.string_at(0)


def exits(*_: object) -> None:
    os._exit(0)


def is_killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupts(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (crashes, "its process was ended by SIGSEGV"),
        (exits, "its process ended before the cell did"),
        (is_killed, "its process was ended by SIGKILL (out of memory, or killed by a user)"),
        (interrupts, "its process ended with exit code 1"),
    ],
)
def test_a_method_that_ends_its_process_fails_its_own_row(
    end: Callable[..., None], message: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(type(registry()["ia3"]), "callbacks", end)
    done = adapterzoo("run", write_recipe("lora, ia3, oft"), *QUIET, "--jobs", "2", "--out", tmp_path / "o")
    assert done.exit_code == 1
    found = rows(tmp_path / "o")
    assert {name: row["status"] for name, row in found.items()} == {"lora/0": "ok", "ia3/0": "failed", "oft/0": "ok"}
    assert found["ia3/0"]["error"] == message
    if end in (crashes, interrupts):
        assert Path(__file__).name in (tmp_path / "o/ia3/seed-0/traceback.txt").read_text(), "the traceback is kept"


def test_what_a_method_changes_in_its_libraries_does_not_reach_the_next_row(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Restoring the base model would not undo a patched function, a global hook or a setting of torch."""
    import torch
    from torch.nn import functional

    adapterzoo("run", write_recipe("lora"), *QUIET, "--out", tmp_path / "alone")
    kind = type(registry()["ia3"])
    wrap = kind.wrap

    def patches(method: Any, model: Any, *arguments: Any) -> Any:
        # The dry run calls this too, on the model without weights.
        functional.silu = torch.tanh
        torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
        torch.set_default_dtype(torch.float64)
        return wrap(method, model, *arguments)

    monkeypatch.setattr(kind, "wrap", patches)
    assert adapterzoo("run", write_recipe("ia3, lora"), *QUIET, "--out", tmp_path / "after").exit_code == 0
    name = "lora/seed-0/adapter/adapter_model.safetensors"
    assert_same(load_file(tmp_path / "after" / name), load_file(tmp_path / "alone" / name))
    assert torch.get_default_dtype() == torch.float32


def test_settings_are_chosen_once_for_all_seeds(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    tune = "seeds: [0, 1, 2]\ntune: {learning_rate: {low: 1e-4, high: 1e-2, trials: 3}}\n"
    done = adapterzoo("run", write_recipe("lora", tune), *QUIET, "--jobs", "3", "--out", tmp_path / "o")
    assert done.exit_code == 0
    assert done.stderr.count("trial 1:") == 1
    found = rows(tmp_path / "o")
    assert len(found) == 3
    assert len({row["learning_rate"] for row in found.values()}) == 1


def start_run(recipe: Path, out: Path, start: type[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Start a run whose trainings do not end by themselves; return when two of them are training."""
    command = [sys.executable, "-m", "adapterzoo", "run", str(recipe), *QUIET, "--jobs", "2", "--out", str(out)]
    command += ["--set", "train.steps=100000"]
    # A shell lets its background jobs ignore Ctrl-C, and the run would inherit that from the tests.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    run = start(command, stderr=subprocess.PIPE, text=True, preexec_fn=listens)
    assert run.stderr is not None
    training = 0
    for line in run.stderr:
        training += "training" in line
        if training == 2:
            return run
    pytest.fail("the run did not begin to train")


def children_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(run.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("ending", "start"), [(signal.SIGINT, subprocess.Popen), (signal.SIGTERM, Forked), (signal.SIGKILL, Forked)]
)
def test_when_a_run_ends_its_processes_end(
    ending: signal.Signals, start: type[subprocess.Popen[str]], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    run = start_run(write_recipe("lora, ia3"), tmp_path / "o", start)
    children = children_of(run)
    assert len(children) == 2
    run.send_signal(ending)
    asked = ending != signal.SIGKILL
    assert run.wait(30) == (128 + ending if asked else -signal.SIGKILL)
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert len(gone) == 2
    saved = list((tmp_path / "o").glob("*/seed-0/checkpoints/checkpoint-*/manifest.json"))
    assert len(saved) == (2 if asked else 0), "each cell saves its step, though the recipe asks for no checkpoints"
    assert run.stderr is not None
    assert asked == ("run the same command again to go on" in run.stderr.read())


def test_a_killed_process_is_one_failed_row_and_the_next_run_resumes_its_checkpoint(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    """The process is killed from outside, in the middle of a training."""
    recipe, out = write_recipe("lora, ia3"), tmp_path / "o"
    sets = ("--set", "train.steps=100", "--set", "train.save_steps=10", *QUIET)
    assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "whole").exit_code == 0
    command = [sys.executable, "-m", "adapterzoo", "run", str(recipe), *sets, "--jobs", "2", "--out", str(out)]
    run = Forked(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        while run.poll() is None and not any(out.glob("*/seed-0/checkpoints/checkpoint-*/manifest.json")):
            time.sleep(0.01)
        children_of(run)[0].kill()
        stdout, stderr = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 1, stderr
    failed = [name for name, row in rows(out).items() if row["status"] == "failed"]
    assert len(failed) == 1
    assert "SIGKILL" in stderr
    assert "SIGKILL" in stdout, "and the table says so"
    done = adapterzoo("run", recipe, *sets, "--out", out)
    assert done.exit_code == 0
    for label in ("lora", "ia3"):
        name = f"{label}/seed-0/adapter/adapter_model.safetensors"
        assert_same(load_file(out / name), load_file(tmp_path / "whole" / name))


def test_the_time_of_each_activity_is_printed_and_kept(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    for jobs in (0, 2):
        out = tmp_path / str(jobs)
        done = adapterzoo("run", write_recipe("lora, ia3"), "--jobs", jobs, "--out", out)
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("time of all processes: "))
        assert "training" in line
        table = json.loads(adapterzoo("compare", out, "--format", "json").stdout)
        (times,) = table["times"].values()
        assert {"preparing", "loading", "wrapping", "training", "saving", "measuring", "waiting"} <= set(times)
        lora = next(row for row in table["rows"] if row["label"] == "lora")
        assert lora["seconds"]["training"] >= lora["train_seconds"] * 0.99
        assert sum(row["seconds"].get("measuring", 0.0) for row in table["rows"]) == pytest.approx(
            times["measuring"], abs=0.1
        )
    again = adapterzoo("run", write_recipe("lora, ia3"), "--jobs", 2, "--out", out)
    assert "time of all processes" not in again.stderr, "nothing was done"
