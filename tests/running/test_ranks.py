"""Check that several processes train a cell as one process does, and that nothing is lost if one of them dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cells import assert_same, exit_code
from click.testing import Result
from safetensors.torch import load_file
from tiny import METHODS, RECIPE

from adapterzoo.machine import rank_processes, ranks
from adapterzoo.machine.rank_processes import RankProcesses
from adapterzoo.running.schedule import CellWatch
from adapterzoo.training.trainer import TaskTrainer

QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")
RANKS = ("--set", "train.devices=2")
# Batches of five rows cannot be divided evenly, and the last one of an epoch has four.
SETS = (*QUIET, "--set", "train.batch_size=5", "--set", "train.gradient_accumulation=2", "--set", "train.steps=4")
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Runs:
    """The same recipe, done by one process for each cell and by two."""

    model: Path
    one: Path
    two: Path


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS)), encoding="utf-8")
    for name, sets in (("one", ()), ("two", RANKS)):
        assert exit_code(["run", str(recipe), *SETS, *sets, "--out", str(folder / name)]) == 0
    return Runs(tiny_model, folder / "one", folder / "two")


def result(out: Path, label: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / label / "seed-0" / "result.json").read_text())
    return found


def adapter(out: Path, label: str) -> dict[str, Any]:
    return load_file(out / label / "seed-0" / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("label", METHODS)
def test_two_processes_make_the_steps_of_one(label: str, runs: Runs) -> None:
    alone, together = result(runs.one, label), result(runs.two, label)
    assert [step["step"] for step in together["history"]] == [1, 2, 3, 4]
    for mine, theirs in zip(alone["history"], together["history"], strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=TOLERANCE)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], abs=TOLERANCE)
    weights = adapter(runs.two, label)
    for name, tensor in adapter(runs.one, label).items():
        assert (tensor - weights[name]).abs().max() < TOLERANCE, name
    assert together["findings"] == alone["findings"], "AdaLoRA has moved other ranks, for example"
    assert not together["broken_rules"]
    assert together["counted"]["optimizer_steps"] == 4


@pytest.mark.parametrize("label", METHODS)
def test_divided_measurements_are_those_of_one_process(label: str, runs: Runs) -> None:
    alone, together = result(runs.one, label), result(runs.two, label)
    for name, value in alone["metrics"].items():
        assert together["metrics"][name] == pytest.approx(value, rel=1e-4), name

    def answers(out: Path) -> list[tuple[Any, ...]]:
        lines = (out / label / "seed-0" / "predictions.jsonl").read_text().splitlines()
        return [(row["prompt"], row["reference"], row["prediction"]) for row in map(json.loads, lines)]

    assert answers(runs.two) == answers(runs.one)


def test_adapters_of_two_processes_load_in_plain_peft(runs: Runs) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for label in METHODS:
        found = []
        for out in (runs.one, runs.two):
            base = AutoModelForCausalLM.from_pretrained(runs.model, dtype=torch.float32)
            model = PeftModel.from_pretrained(base, out / label / "seed-0" / "adapter").eval()
            with torch.no_grad():
                found.append(model(torch.arange(3, 20)[None]).logits)
        assert (found[0] - found[1]).abs().max() < TOLERANCE, label


def each_step(monkeypatch: pytest.MonkeyPatch, at: int, do: Callable[[RankProcesses], object]) -> None:
    """Call a function with the processes of the cell when a step is done."""

    def step(watch: CellWatch, number: int, *_: object) -> None:
        processes = next(iter(watch._schedule.running))  # type: ignore[attr-defined]
        assert isinstance(processes, RankProcesses)
        if number == at:
            do(processes)

    monkeypatch.setattr(CellWatch, "step", step)


def test_a_rank_that_is_killed_ends_its_cell_and_the_run_goes_on_from_the_checkpoint(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = write_recipe("{name: lora, lora_dropout: 0.1}")
    sets = (*QUIET, *RANKS, "--set", "train.steps=24", "--set", "train.save_steps=1")
    assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "whole").exit_code == 0
    killed: list[int] = []

    def kill_once(processes: RankProcesses) -> None:
        if not killed:
            killed.extend(rank.process_id for rank in processes._ranks)
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
    assert 3 <= again[0] <= 24, "it went on from a checkpoint"
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
        ((*RANKS, "--ray", "auto"), "train.devices: is 2, but a node of a Ray cluster does a cell with one process."),
    ],
)
def test_what_cannot_be_divided_is_refused(
    arguments: tuple[str, ...], why: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    done = adapterzoo("run", write_recipe("lora"), *arguments)
    assert done.exit_code == 2
    assert why in done.stderr.replace("\n", " ")
