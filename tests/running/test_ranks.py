"""Check that several processes train a cell as one process does, and that nothing is lost if one of them dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cell_ranks import QUIET, RANKS, adapter, result
from cells import exit_code
from click.testing import CliRunner, Result
from tiny import METHODS, RECIPE

from adapterzoo.cli import main
from adapterzoo.machine import gpu, processes
from adapterzoo.machine.rank_processes import forked_ranks

# Batches of five rows cannot be divided evenly, and the last one of an epoch has four.
SETS = (*QUIET, "--set", "train.batch_size=5", "--set", "train.gradient_accumulation=2", "--set", "train.steps=3")
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Runs:
    """The same recipe, done by one process for each cell and by two."""

    model: Path
    recipe: Path
    one: Path
    two: Path


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS)), encoding="utf-8")
    for name, sets in (("one", ()), ("two", RANKS)):
        assert exit_code(["run", str(recipe), *SETS, *sets, "--out", str(folder / name)]) == 0
    return Runs(tiny_model, recipe, folder / "one", folder / "two")


@pytest.mark.parametrize("label", METHODS)
def test_two_processes_make_the_steps_of_one(label: str, runs: Runs) -> None:
    alone, together = result(runs.one, label), result(runs.two, label)
    assert [step["step"] for step in together["history"]] == [1, 2, 3]
    assert_trained_alike(runs.one, runs.two, label)
    for mine, theirs in zip(alone["history"], together["history"], strict=True):
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], abs=TOLERANCE)
    assert together["findings"] == alone["findings"], "AdaLoRA has moved other ranks, for example"
    assert not together["broken_rules"]
    assert together["counted"]["optimizer_steps"] == 3


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


def assert_trained_alike(alone: Path, together: Path, label: str) -> None:
    """Assert that a cell has the losses and the weights that one process gave it."""
    for mine, theirs in zip(result(alone, label)["history"], result(together, label)["history"], strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=TOLERANCE)
    weights = adapter(together, label)
    for name, tensor in adapter(alone, label).items():
        assert (tensor - weights[name]).abs().max() < TOLERANCE, name


def test_processes_that_a_launcher_has_started_do_a_run_together(runs: Runs, tmp_path: Path) -> None:
    arguments = ["run", str(runs.recipe), "-m", "lora", "-m", "adalora", *SETS, "--out", str(tmp_path / "o")]

    def run(send: Callable[[Any], None]) -> None:
        done = CliRunner().invoke(main, arguments)
        # A launcher starts the processes and sets these variables, and nothing else.
        (tmp_path / f"printed-{os.environ['RANK']}").write_text(done.stdout)
        if os.environ["RANK"] == "0":
            send(done.exit_code)

    ran = forked_ranks(2, run, 1)
    codes: list[int] = []
    while ran.alive:
        processes.wait_for_any([ran])
        codes += ran.messages()
    assert [*codes, *ran.messages()] == [0], ran.output()
    assert "adalora, by design" in (tmp_path / "printed-0").read_text()
    assert (tmp_path / "printed-1").read_text() == ""
    for label in ("lora", "adalora"):
        assert_trained_alike(runs.one, tmp_path / "o", label)
        assert result(tmp_path / "o", label)["recipe"]["train"]["devices"] == 2


@pytest.mark.parametrize(
    ("of_rank", "message"),
    [
        (("--out", "{rank}"), "does not see this folder, in which checkpoints are"),
        (
            ("--out", "o", "--set", "data.limit=3{rank}"),
            "has prepared another run than rank 0 (data.limit: 31 there, 30 here; the data rows differ).",
        ),
    ],
)
def test_machines_that_would_not_do_the_same_run_are_refused(
    of_rank: tuple[str, ...], message: str, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(send: Callable[[Any], None]) -> None:
        own = [argument.format(rank=os.environ["RANK"]) for argument in of_rank]
        done = CliRunner().invoke(main, ["run", str(runs.recipe), *own])
        if os.environ["RANK"] == "0":
            send((done.exit_code, done.stderr))

    ran, sent = forked_ranks(2, run, 1), list[Any]()
    while ran.alive:
        processes.wait_for_any([ran])
        sent += ran.messages()
    ((code, printed),) = [*sent, *ran.messages()]
    assert code == 2
    assert "rank 1 on " in printed
    assert message in printed
    assert not [*tmp_path.glob("*/.claims")]


@pytest.mark.real
def test_accelerate_starts_a_run_and_its_config_divides_the_weights(runs: Runs, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
               "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "--use_fsdp",
               "--fsdp_version", "2", "-m", "adapterzoo", "run", runs.recipe, "-m", "lora", *SETS,
               "--out", tmp_path / "o"]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_trained_alike(runs.one, tmp_path / "o", "lora")
    assert result(tmp_path / "o", "lora")["recipe"]["train"]["sharding"] == "fsdp2"


def test_processes_that_load_the_model_themselves(
    runs: Runs, adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is how GPUs are used; without one, the processes train on the CPU."""
    monkeypatch.setattr(processes, "can_fork", lambda: False)
    monkeypatch.setattr(gpu, "visible", lambda: ["0", "1", "2"])
    wanted = ("-m", "lora", "-m", "ia3", *SETS, *RANKS)
    done = adapterzoo("run", runs.recipe, *wanted, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    for label in ("lora", "ia3"):
        assert_trained_alike(runs.one, tmp_path / "o", label)
    too_many = adapterzoo("run", runs.recipe, *wanted, "--set", "train.devices=4", "--out", tmp_path / "p")
    assert too_many.exit_code == 2
    assert "train.devices: is 4, but this machine has 3 GPUs" in too_many.stderr
