"""Check what happens if a rank of a cell dies or fails, and what is refused before there are any."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cell_ranks import QUIET, RANKS, adapter, result
from cells import assert_same
from click.testing import CliRunner, Result

from adapterzoo.cli import main
from adapterzoo.evaluation.forgetting import General
from adapterzoo.machine import launcher, rank_processes, ranks, settling
from adapterzoo.machine.processes import Send, wait_for_any
from adapterzoo.machine.rank_processes import RankProcesses, forked_ranks
from adapterzoo.prepare import devices
from adapterzoo.running.schedule import CellWatch
from adapterzoo.training.trainer import TaskTrainer

GENERAL_TEXT = ("--set", "evaluate.general_text=shipped")


def each_step(monkeypatch: pytest.MonkeyPatch, at: int, do: Callable[[RankProcesses], object]) -> None:
    """Call a function with the processes of the cell when a step is done."""

    def step(watch: CellWatch, number: int, *_: object) -> None:
        running = next(iter(watch._schedule.running))  # type: ignore[attr-defined]
        assert isinstance(running, RankProcesses)
        if number == at:
            do(running)

    monkeypatch.setattr(CellWatch, "step", step)


def fail_on(failing: int, owner: Any, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a function fail on one rank alone, and let nobody wait long for the others."""
    work = getattr(owner, function)

    def fail(*arguments: Any, **named: Any) -> Any:
        if ranks.number() == failing:
            raise ValueError("only here")
        return work(*arguments, **named)

    monkeypatch.setattr(owner, function, fail)
    monkeypatch.setattr(settling, "SECONDS_TO_BE_ENDED", 2.0)


def launched_run(recipe: Path, *arguments: object, reports: Path) -> dict[int, str]:
    """Do a run in two processes as torchrun starts them; return what it prints of each that failed and said why."""
    names = [f"error-{number}.json" for number in range(2)]

    def run(send: Send) -> None:
        os.environ[launcher.REASON_FILE] = str(reports / names[int(os.environ["RANK"])])
        CliRunner().invoke(main, ["run", str(recipe), *QUIET, *map(str, arguments)])

    processes = forked_ranks(2, run, 1)
    assert isinstance(processes, RankProcesses)
    while processes.alive:
        wait_for_any([processes])
    for rank in processes._ranks:
        rank.wait()
    found = {number: reports / name for number, name in enumerate(names) if (reports / name).exists()}
    return {number: json.loads(file.read_text())["message"]["message"] for number, file in found.items()}


def test_a_rank_that_is_killed_ends_its_cell_and_the_run_goes_on_from_the_checkpoint(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = write_recipe("{name: lora, lora_dropout: 0.1}")
    sets = (*QUIET, *RANKS, "--set", "train.steps=12", "--set", "train.save_steps=1")
    assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "whole").exit_code == 0
    killed: list[int] = []

    def kill_once(running: RankProcesses) -> None:
        if not killed:
            killed.extend(rank.process_id for rank in running._ranks)
            os.kill(killed[1], signal.SIGKILL)

    with monkeypatch.context() as patched:
        each_step(patched, 3, kill_once)
        done = adapterzoo("run", recipe, *sets, "--out", tmp_path / "o")
    assert done.exit_code == 1
    failed = result(tmp_path / "o", "lora")
    assert failed["error"] == "rank 1 of 2: its process was ended by SIGKILL (out of memory, or killed by a user)"
    assert not any(Path(f"/proc/{number}").exists() for number in killed)
    again: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(CellWatch, "step", lambda watch, step, *_: again.append(step))
        assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "o").exit_code == 0
    assert 3 <= again[0] <= 12, "it went on from a checkpoint"
    assert_same(adapter(tmp_path / "o", "lora"), adapter(tmp_path / "whole", "lora"))


def test_an_error_of_one_rank_alone_is_the_reason_of_the_row(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    compute_loss = TaskTrainer.compute_loss

    def fail_on_rank_1(trainer: TaskTrainer, *arguments: Any, **named: Any) -> Any:
        if ranks.number() == 1 and trainer.state.global_step == 2:
            raise ValueError("only here")
        return compute_loss(trainer, *arguments, **named)

    monkeypatch.setattr(TaskTrainer, "compute_loss", fail_on_rank_1)
    monkeypatch.setattr(rank_processes, "GRACE_SECONDS", 1.0)
    done = adapterzoo("run", write_recipe("lora"), *QUIET, *RANKS, "--out", tmp_path / "o")
    assert done.exit_code == 1
    assert result(tmp_path / "o", "lora")["error"] == "rank 1 of 2: ValueError: only here"
    assert "fail_on_rank_1" in (tmp_path / "o" / "lora" / "seed-0" / "traceback.txt").read_text()


@pytest.mark.parametrize(("failing", "who"), [(0, ""), (1, "rank 1 of 2: ")])
@pytest.mark.parametrize(
    ("owner", "function", "extra", "why"),
    [
        (TaskTrainer, "compute_loss", "tune: {r: {values: [2, 4]}}\n", ""),
        (General, "measure", "", "the general text could not be measured: "),
    ],
)
def test_a_rank_that_fails_alone_where_errors_are_caught_is_named(
    owner: Any, function: str, extra: str, why: str, failing: int, who: str, write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fail_on(failing, owner, function, monkeypatch)
    monkeypatch.setattr(rank_processes, "GRACE_SECONDS", 1.0)
    sets = (*QUIET, *RANKS, "--set", "train.time_limit=60", *([] if extra else GENERAL_TEXT))
    assert adapterzoo("run", write_recipe("lora", extra), *sets, "--out", tmp_path / "o").exit_code == 1
    assert result(tmp_path / "o", "lora")["error"] == f"{why}{who}ValueError: only here"


@pytest.mark.parametrize(("owner", "function"), [(TaskTrainer, "compute_loss"), (General, "measure")])
def test_under_a_launcher_a_failure_of_rank_0_alone_is_the_reason_of_its_row_and_of_the_report(
    owner: Any, function: str, write_recipe: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fail_on(0, owner, function, monkeypatch)
    reports = launched_run(write_recipe("lora"), *GENERAL_TEXT, "--out", tmp_path / "o", reports=tmp_path)
    failed = result(tmp_path / "o", "lora")
    assert (failed["status"], failed["error"]) == ("failed", "ValueError: only here")
    assert reports[0].startswith("error: lora, seed 0: ValueError: only here. Rank 0 alone has failed")
    assert list(reports) == [0], "that the other rank has lost this one is no reason"


def test_under_a_launcher_the_report_has_the_reason_of_another_rank_that_failed_alone(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(1, TaskTrainer, "compute_loss", monkeypatch)
    reports = launched_run(write_recipe("lora"), "--out", tmp_path / "o", reports=tmp_path)
    assert reports[1] == "error: ValueError: only here"


def test_an_error_of_all_ranks_is_that_of_one_process(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    done = adapterzoo(
        "run", write_recipe("{name: lora, learning_rate: 1e20}, ia3"), *QUIET, *RANKS, "--out", tmp_path / "o"
    )
    assert done.exit_code == 1
    assert "became" in result(tmp_path / "o", "lora")["error"]
    assert result(tmp_path / "o", "ia3")["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--set", "train.devices=5"), "has 5 devices, and 4 rows in a batch. Each device needs at least one."),
        ((*RANKS, "--jobs", "0"), "train.devices: is 2, but jobs: 0 lets this process do all cells."),
        (
            (*RANKS, "--set", "train.sharding=fsdp2"),
            "train.devices: is 2, and lora was seen to fail with fsdp2: it reads no weights. Leave train.sharding out.",
        ),
        ((*RANKS, "--ray", "auto", "--gpus", "0.5"), "--gpus 0.5: is a share of a GPU, and each of the 2 processes"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    arguments: tuple[str, ...], why: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen = {"ddp": True, "fsdp2": "it reads no weights"}  # all methods that come with adapterzoo pass
    monkeypatch.setattr(devices, "capabilities", lambda zoo, name: seen)
    done = adapterzoo("run", write_recipe("lora"), *arguments)
    assert done.exit_code == 2
    assert why in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("installed", "arguments", "why"),
    [
        (False, (), "train.sharding: is zero3, which needs DeepSpeed, and it is not installed. Run: pip install"),
        (True, ("--set", "train.optimizer=adafactor"), "train.optimizer: is adafactor, and zero3 gives an optimizer"),
        (True, ("-m", "lora-fa"), "train.devices: is 2, and lora-fa was seen to fail with zero3: "),
    ],
)
def test_what_deepspeed_cannot_divide_is_refused(
    installed: bool, arguments: tuple[str, ...], why: str, write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result], no_weights: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(devices, "find_spec", lambda name: installed or None)
    done = adapterzoo("check", write_recipe("lora"), *RANKS, "--set", "train.sharding=zero3", *arguments)
    assert done.exit_code == 2
    assert why in done.stderr.replace("\n", " ")
