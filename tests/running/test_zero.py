"""Check that DeepSpeed's ZeRO divides a training among processes, and that its results are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cell_ranks import QUIET, RANKS, adapter, result
from cells import assert_same, exit_code
from click.testing import CliRunner, Result
from tiny import RECIPE

from adapterzoo.cli import main
from adapterzoo.machine import processes, ranks
from adapterzoo.machine.rank_processes import RankProcesses, forked_ranks
from adapterzoo.running import measuring
from adapterzoo.running.schedule import CellWatch
from adapterzoo.training.trainer import TaskTrainer

pytest.importorskip("deepspeed")

# Batches of five rows cannot be divided evenly, and the last one of an epoch has four.
SETS = (
    *QUIET, "--set", "train.batch_size=5", "--set", "train.gradient_accumulation=2", "--set", "train.steps=3",
    "--set", "train.eval_steps=1", "--set", "train.weight_decay=0.1",
)  # fmt: skip
# AdaLoRA reads gradients and changes weights between steps, OFT's layers are its own, and full trains the base model.
METHODS = ("lora", "adalora", "oft", "qlora", "full")
STAGES = ("zero2", "zero3")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the same recipe, done by one process for each cell, and by two with each stage of ZeRO."""
    folder = tmp_path_factory.mktemp("zero")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS)), encoding="utf-8")
    for name in ("one", *STAGES):
        sets = () if name == "one" else (*RANKS, "--set", f"train.sharding={name}")
        assert exit_code(["run", str(recipe), *SETS, *sets, "--out", str(folder / name)]) == 0
    return folder


@pytest.mark.parametrize("label", METHODS)
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_make_the_steps_of_one(stage: str, label: str, runs: Path) -> None:
    alone, together = result(runs / "one", label), result(runs / stage, label)
    assert_same_history(alone, together)
    for name, value in alone["metrics"].items():
        assert together["metrics"][name] == pytest.approx(value, rel=1e-4), name
    assert together["findings"] == alone["findings"], "AdaLoRA has moved other ranks, for example"
    assert together["declared_departures"] == alone["declared_departures"]
    assert not together["broken_rules"]
    for name in ("optimizer_steps", "batches", "trained_numbers"):
        assert together["counted"][name] == alone["counted"][name]
    assert together["counted"]["largest_gradient_norm"] == pytest.approx(alone["counted"]["largest_gradient_norm"])


def assert_same_history(alone: dict[str, Any], together: dict[str, Any]) -> None:
    assert len(together["history"]) == len(alone["history"])
    for mine, theirs in zip(alone["history"], together["history"], strict=True):
        assert theirs == pytest.approx(mine, abs=TOLERANCE), "loss, validation loss, rate and norm of the gradients"


@pytest.mark.parametrize("stage", STAGES)
def test_adapters_load_in_plain_peft(stage: str, runs: Path, tiny_model: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for label in ("lora", "adalora", "oft", "qlora"):
        found = []
        for out in (runs / "one", runs / stage):
            base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
            model = PeftModel.from_pretrained(base, out / label / "seed-0" / "adapter").eval()
            with torch.no_grad():
                found.append(model(torch.arange(3, 20)[None]).logits)
        assert (found[0] - found[1]).abs().max() < TOLERANCE, label


def test_zero_3_divides_all_large_weights_in_training_alone(
    runs: Path, adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss, looks_ahead = TaskTrainer.compute_loss, measuring.looks_ahead

    def note(model: Any, what: str) -> None:
        here = {name: parameter.numel() for name, parameter in model.named_parameters()}
        (tmp_path / f"{what}-{ranks.number()}").write_text(json.dumps(here))

    def noting_loss(trainer: TaskTrainer, *arguments: Any, **named: Any) -> Any:
        note(trainer.model, "training")
        return compute_loss(trainer, *arguments, **named)

    def noting_measuring(model: Any, *arguments: Any) -> bool:
        note(model, "measuring")
        return looks_ahead(model, *arguments)

    monkeypatch.setattr(TaskTrainer, "compute_loss", noting_loss)
    monkeypatch.setattr(measuring, "looks_ahead", noting_measuring)
    # After measuring the validation rows, it has already put together what it would need next in training.
    sets = (*SETS, *RANKS, "--set", "train.sharding=zero3", "--set", "train.eval_steps=0")
    done = adapterzoo("run", runs / "recipe.yaml", "-m", "qlora", *sets, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert "changed outside of its model" not in done.stderr
    for number in (0, 1):
        whole = json.loads((tmp_path / f"measuring-{number}").read_text())
        here = json.loads((tmp_path / f"training-{number}").read_text())
        divided = [name for name in whole if not here[name]]
        assert len([name for name in divided if "base_layer" in name]) == 14, "the layers in 4 bits"
        assert sum(whole[name] for name in divided) > 0.8 * sum(whole.values())
        assert all(whole.values())


@pytest.mark.parametrize(("stage", "label"), [("zero2", "adalora"), ("zero3", "full")])
def test_a_rank_that_is_killed_ends_its_cell_and_the_run_goes_on_from_the_checkpoint(
    stage: str, label: str, runs: Path, adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sets = (*QUIET, *RANKS, "--set", "train.steps=6", "--set", "train.save_steps=1")
    arguments = ("run", runs / "recipe.yaml", "-m", label, *sets, "--set", f"train.sharding={stage}", "--out")
    assert adapterzoo(*arguments, tmp_path / "whole").exit_code == 0

    def kill(watch: CellWatch, number: int, *_: object) -> None:
        running = next(iter(watch._schedule.running))  # type: ignore[attr-defined]
        assert isinstance(running, RankProcesses)
        if number == 3:
            os.kill(running._ranks[1].process_id, signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(CellWatch, "step", kill)
        assert adapterzoo(*arguments, tmp_path / "o").exit_code == 1
    assert "rank 1 of 2: its process was ended by SIGKILL" in result(tmp_path / "o", label)["error"]
    again: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(CellWatch, "step", lambda watch, step, *_: again.append(step))
        assert adapterzoo(*arguments, tmp_path / "o").exit_code == 0
    assert 3 <= again[0] <= 6, "it went on from a checkpoint"
    assert_same(weights(tmp_path / "o", label), weights(tmp_path / "whole", label))


def weights(out: Path, label: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return adapter(out, label) if label != "full" else load_file(next((out / label).rglob("adapter/*.safetensors")))


def test_processes_of_a_launcher_do_one_cell_after_the_other_on_the_untouched_base(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These are the variables that ``accelerate launch --use_deepspeed --zero_stage 3`` sets."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    arguments = ["run", str(runs / "recipe.yaml"), "-m", "full", "-m", "lora", *SETS, "--out", str(tmp_path / "o")]

    def run(send: Callable[[Any], None]) -> None:
        done = CliRunner().invoke(main, arguments)
        if os.environ["RANK"] == "0":
            send((done.exit_code, done.output))

    ran = forked_ranks(2, run, 1)
    answers: list[Any] = []
    while ran.alive:
        processes.wait_for_any([ran])
        answers += ran.messages()
    ((code, printed),) = [*answers, *ran.messages()]
    assert code == 0, printed
    for label in ("full", "lora"):
        assert_same_history(result(runs / "one", label), result(tmp_path / "o", label))
        assert result(tmp_path / "o", label)["recipe"]["train"]["sharding"] == "zero3"


@pytest.mark.real
@pytest.mark.parametrize("stage", ["2", "3"])
def test_accelerate_starts_a_run_with_deepspeed(stage: str, runs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
               "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "--use_deepspeed",
               "--zero_stage", stage, "-m", "adapterzoo", "run", runs / "recipe.yaml", "-m", "lora", *SETS,
               "--out", tmp_path / "o"]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_history(result(runs / "one", "lora"), result(tmp_path / "o", "lora"))
    assert result(tmp_path / "o", "lora")["recipe"]["train"]["sharding"] == f"zero{stage}"
