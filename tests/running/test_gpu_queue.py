"""Check the schedule for GPUs; without a GPU, its processes train on the CPU and everything else stays the same."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from cells import assert_same
from click.testing import Result
from forked import ForkedWorker
from safetensors.torch import load_file

from adapterzoo.machine import fresh_process, gpu, processes
from adapterzoo.machine.fresh_process import FreshProcess
from adapterzoo.methods.registry import registry
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.running.gpu_queue import GpuQueue, gpus_of_cells
from adapterzoo.running.schedule import CellWatch

GPUS = ["0", "0"] if torch.cuda.device_count() == 1 else ["0", "1"]
QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let runs find two GPUs, or the first one twice; return a list that will hold the GPU of each process."""
    started: list[str] = []
    init = FreshProcess.__init__

    def note(self: FreshProcess, handler: Any, threads: int, environment: dict[str, str]) -> None:
        started.append(environment[gpu.VISIBLE])
        init(self, handler, threads, environment)

    monkeypatch.setattr(FreshProcess, "__init__", note)
    monkeypatch.setattr(processes, "can_fork", lambda: False)
    monkeypatch.setattr(gpu, "visible", lambda: GPUS)
    return started


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes of the schedule, if this machine has no GPU, because new ones need seconds to begin."""
    if not torch.cuda.is_available():
        of_forks = SimpleNamespace(Popen=ForkedWorker, DEVNULL=subprocess.DEVNULL)
        monkeypatch.setattr(fresh_process, "subprocess", of_forks)


def results(out: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in out.glob("*/seed-*/result.json")]
    return {f"{result['label']}/{result['seed']}": result for result in found}


def test_processes_on_gpus_give_the_results_of_this_process(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, started: list[str]
) -> None:
    general = tmp_path / "general.txt"
    general.write_text("Once upon a time.\n\nIt was long ago.\n")
    tune = "tune: {learning_rate: {low: 1e-4, high: 1e-2, trials: 2}}\nseeds: [0, 1]\n"
    sets = ("--set", f"evaluate.general_text={general}")
    for jobs in ("0", "auto"):
        done = adapterzoo("run", write_recipe("lora, qlora, ia3", tune), *sets, "--set", f"jobs={jobs}", "--out",
                          tmp_path / jobs)  # fmt: skip
        assert done.exit_code == 0, done.stderr
    assert started == GPUS, "each process did several cells"
    here, there = results(tmp_path / "0"), results(tmp_path / "auto")
    assert {name: row["metrics"] for name, row in there.items()} == {name: row["metrics"] for name, row in here.items()}
    trained = sorted((tmp_path / "0").rglob("adapter_model.safetensors"))
    assert len(trained) == 6
    for path in trained:
        assert_same(load_file(tmp_path / "auto" / path.relative_to(tmp_path / "0")), load_file(path))


@pytest.mark.parametrize(("package", "processes_started"), [("adapterzoo", 1), ("someone-elses", 2)])
def test_a_process_is_used_again_only_after_a_built_in_method(
    package: str, processes_started: int, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if package != "adapterzoo":
        request.getfixturevalue("forked")
    monkeypatch.setattr(type(registry()), "package", lambda self, name: package)
    # Nothing in the working directory may take the place of a module.
    (tmp_path / "adapterzoo").mkdir()
    (tmp_path / "signal.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert adapterzoo("run", write_recipe("lora, ia3"), *QUIET, "--jobs", "1", "--out", tmp_path / "o").exit_code == 0
    assert started == ["0"] * processes_started


EARLIER: list[psutil.Process] = []


@pytest.fixture(autouse=True)
def earlier_children() -> None:
    """Note the processes that other tests have started and still use."""
    EARLIER[:] = psutil.Process().children()


def new_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in EARLIER]


def test_a_killed_process_is_one_failed_row(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, started: list[str],
    forked: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def kill_the_process(watch: CellWatch, *_: object) -> None:
        if watch._cell == ("lora", 0):
            for child in new_children():
                child.kill()

    monkeypatch.setattr(CellWatch, "step", kill_the_process)
    sets = ("--set", "train.steps=120", *QUIET)
    done = adapterzoo("run", write_recipe("lora, ia3"), *sets, "--jobs", "1", "--out", tmp_path / "o")
    assert done.exit_code == 1
    found = results(tmp_path / "o")
    assert found["lora/0"]["error"] == "its process was ended by SIGKILL (out of memory, or killed by a user)"
    assert found["ia3/0"]["status"] == "ok"
    assert not new_children()


def broken_copy(folder: str, broken: Path) -> str:
    """Copy a model with only the beginning of its weights; return the copy's folder."""
    broken.mkdir()
    for path in Path(folder).iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".safetensors" else None])
    return str(broken)


def test_a_base_model_that_loaded_once_and_then_not_fails_one_row(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, started: list[str],
    forked: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The memory of a GPU may be full for a while; the other processes still have the model."""
    new_process = GpuQueue._new_process

    def with_a_broken_model_for_the_second(queue: GpuQueue, threads: int) -> FreshProcess:
        whole = queue.prepared.location
        if len(started) == 1:
            object.__setattr__(queue.prepared, "location", broken_copy(whole, tmp_path / "broken"))
        process = new_process(queue, threads)
        object.__setattr__(queue.prepared, "location", whole)
        return process

    monkeypatch.setattr(GpuQueue, "_new_process", with_a_broken_model_for_the_second)
    monkeypatch.setattr(type(registry()), "package", lambda self, name: "someone-elses")
    done = adapterzoo("run", write_recipe("lora, ia3, oft"), *QUIET, "--jobs", "1", "--out", tmp_path / "o")
    assert done.exit_code == 1
    found = results(tmp_path / "o")
    assert {name: row["status"] for name, row in found.items()} == {"lora/0": "ok", "ia3/0": "failed", "oft/0": "ok"}
    assert "cannot be loaded" in found["ia3/0"]["error"]


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_message(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, started: list[str],
    forked: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.running import runner

    prepare = runner.prepare

    def then_break_the_weights(*arguments: Any) -> Any:
        prepared = prepare(*arguments)
        object.__setattr__(prepared, "location", broken_copy(prepared.location, tmp_path / "broken"))
        return prepared

    monkeypatch.setattr(runner, "prepare", then_break_the_weights)
    done = adapterzoo("run", write_recipe("lora"), *QUIET, "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert "cannot be loaded" in done.stderr
    assert not new_children()


def test_a_model_that_is_spread_gets_all_gpus(write_recipe: Callable[..., Path]) -> None:
    for sets, expected in ([], ["0", "1"]), (["train.devices=2"], ["0,1"]), (["model.device_map=auto"], ["0,1"]):
        assert gpus_of_cells(load_recipe(write_recipe("lora"), sets), ["0", "1"]) == expected
