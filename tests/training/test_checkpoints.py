"""Check that only complete checkpoints are used, that old ones are removed in one go, and how a training resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cells import Bench, StopError, assert_same, stop_at_five
from click.testing import Result
from damage import DAMAGES, become_file
from safetensors.torch import load_file

from adapterzoo import files
from adapterzoo.training import checkpoints

WRITTEN = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "adapter_state.safetensors")


def adapter(out: Path, label: str) -> dict[str, Any]:
    return load_file(out / label / "seed-0" / "adapter" / "adapter_model.safetensors")


def entries(out: Path, label: str) -> list[dict[str, float]]:
    history: list[dict[str, float]] = json.loads((out / label / "seed-0" / "result.json").read_text())["history"]
    return history


PLATEAU = ("train.scheduler=reduce_lr_on_plateau", "train.eval_steps=1", "train.scheduler_options={patience: 0}")


@pytest.mark.parametrize(
    "schedule", [("train.scheduler=constant",), PLATEAU, ()], ids=["constant", "plateau", "linear"]
)
def test_a_cell_that_was_killed_while_measuring_is_not_trained_further(
    schedule: tuple[str, ...], write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.running import worker

    # Training ends in the middle of an epoch, because at its end the trainer would have no rows for an extra step.
    saved = ("train.save_steps=4", "train.save_limit=1")
    settings = ("train.steps=8", *saved, "train.warmup=0", "evaluate.base=false", *schedule)
    sets = [part for setting in settings for part in ("--set", setting)]
    recipe, measure = write_recipe("lora"), worker.measure
    assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "whole").exit_code == 0

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        monkeypatch.setattr(worker, "measure", killed)
        assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "killed").exit_code != 0
        assert [path.name for path in (tmp_path / "killed/lora/seed-0/checkpoints").glob("c*")] == ["checkpoint-8"]
    monkeypatch.setattr(worker, "measure", measure)
    done = adapterzoo("run", recipe, *sets, "--out", tmp_path / "killed")
    assert done.exit_code == 0, done.output
    assert_same(adapter(tmp_path / "killed", "lora"), adapter(tmp_path / "whole", "lora"))
    assert entries(tmp_path / "killed", "lora") == entries(tmp_path / "whole", "lora")
    assert len([entry for entry in entries(tmp_path / "killed", "lora") if "loss" in entry]) == 8
    assert not (tmp_path / "killed/lora/seed-0/checkpoints").exists()


def test_the_end_of_training_is_also_called_for_a_training_that_a_checkpoint_finished(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import TrainerCallback

    class DoubleAtTheEnd(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.mul_(2)

    bench = Bench(write_recipe("lora"), "train.steps=8", "train.save_steps=4")
    loaded = bench.load("none")
    first = bench.adapter("lora", loaded, tmp_path, callbacks=[DoubleAtTheEnd()])
    assert_same(bench.adapter("lora", loaded, tmp_path, callbacks=[DoubleAtTheEnd()]), first)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("broken", [Path.unlink, damage, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", [*WRITTEN, checkpoints.MANIFEST])
def test_a_checkpoint_that_is_not_complete_is_removed(name: str, broken: Any, tmp_path: Path) -> None:
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for file in WRITTEN:
            (folder / file).write_bytes(f"{file} of step {step}".encode())
        checkpoints.complete(folder, seconds=step / 2)
    newest = checkpoints.newest(tmp_path, wanted=True)
    assert newest == checkpoints.Checkpoint(tmp_path / "checkpoint-4", 4, 2.0)
    assert not (tmp_path / "checkpoint-2").exists(), "the trainer would take it for the newest"
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-2")
    checkpoints.complete(tmp_path / "checkpoint-2", seconds=1.0)
    shutil.copytree(
        tmp_path / "checkpoint-4", tmp_path / "checkpoint-10"
    )  # its manifest has another step than its name
    broken(tmp_path / "checkpoint-4" / name)
    older = checkpoints.newest(tmp_path, wanted=True)
    assert older is not None
    assert older.step == 2
    assert not (tmp_path / "checkpoint-4").exists()
    assert checkpoints.newest(tmp_path, wanted=False) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", DAMAGES)
def test_before_a_damaged_checkpoint_the_run_falls_back_to_the_one_before_and_says_so(
    kind: str, tmp_path: Path
) -> None:
    for name in (*WRITTEN, checkpoints.MANIFEST, "the folder"):
        folder, said = tmp_path / name, list[str]()
        for step in (2, 4):
            (folder / f"checkpoint-{step}").mkdir(parents=True)
            for file in WRITTEN:
                (folder / f"checkpoint-{step}" / file).write_bytes(f"{file} of step {step}".encode() * 9)
            checkpoints.complete(folder / f"checkpoint-{step}", seconds=1.0)
        if name == "the folder":
            become_file(folder / "checkpoint-4")
        else:
            DAMAGES[kind](folder / "checkpoint-4" / name)
        found = checkpoints.newest(folder, wanted=True, say=said.append)
        assert found is not None
        assert found.step == 2, name
        assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
        assert said == ["checkpoint-4: not written to its end, or damaged; training goes on from step 2"]
    DAMAGES[kind](folder / "checkpoint-2" / checkpoints.MANIFEST)
    assert checkpoints.newest(folder, wanted=True, say=said.append) is None
    assert said[1] == "checkpoint-2: not written to its end, or damaged; training begins anew"


def test_training_resumes_from_the_newest_complete_checkpoint(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    sets = ("train.save_steps=2", "train.save_limit=2")
    bench = Bench(write_recipe("lora"), *sets)
    loaded = bench.load("none")
    expected = bench.adapter("lora", loaded, tmp_path / "whole")
    for name, first in ((None, 5), ("optimizer.pt", 3), ("scheduler.pt", 3), ("rng_state.pth", 3)):
        folder = tmp_path / f"without-{name}"
        with pytest.raises(StopError):
            bench.adapter("lora", loaded, folder, on_step=stop_at_five)
        if name:
            (folder / "checkpoints" / "checkpoint-4" / name).unlink()
        seen: list[int] = []
        assert_same(bench.adapter("lora", loaded, folder, on_step=partial(_append_step, seen)), expected)
        assert seen[0] == first


@pytest.mark.parametrize("stopped", [5, 11, 13, 17])
def test_adalora_resumes_before_and_after_its_ranks_are_fixed(
    stopped: int, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    def stop(step: int, *_: object) -> None:
        if step == stopped:
            raise StopError

    bench = Bench(write_recipe("adalora", steps="20"), "train.save_steps=2")
    loaded, seen = bench.load("none"), list[int]()
    expected = bench.adapter("adalora", loaded, tmp_path / "whole")
    with pytest.raises(StopError):
        bench.adapter("adalora", loaded, tmp_path / "stopped", on_step=stop)
    found = bench.adapter("adalora", loaded, tmp_path / "stopped", on_step=partial(_append_step, seen))
    assert_same(found, expected)
    assert seen[0] == stopped, "the last checkpoint was of the step before"
    configs = [
        json.loads((tmp_path / name / "adapter/adapter_config.json").read_text()) for name in ("whole", "stopped")
    ]
    assert configs[0]["rank_pattern"] == configs[1]["rank_pattern"]


def _append_step(seen: list[int], step: int, *_: object) -> None:
    seen.append(step)


def test_an_old_checkpoint_is_removed_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the run is killed while it removes a checkpoint, nothing with the checkpoint's name is left."""
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"x")
        checkpoints.complete(tmp_path / f"checkpoint-{step}", seconds=1.0)

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.keep_newest(tmp_path, 1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    newest = checkpoints.newest(tmp_path, wanted=True)
    assert newest is not None
    assert newest.step == 4


@pytest.mark.parametrize("odd", ['"seconds": NaN', '"seconds": -1', '"files": {}', '"files": []', '"seconds": null'])
def test_a_checkpoint_with_a_changed_manifest_is_not_used(odd: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(b"x")
    checkpoints.complete(folder, seconds=1.0)
    manifest = json.loads((folder / checkpoints.MANIFEST).read_text())
    (folder / checkpoints.MANIFEST).write_text(json.dumps({**manifest, **json.loads(f"{{{odd}}}")}))
    (tmp_path / "checkpoint-3").write_bytes(b"not a folder")
    assert checkpoints.newest(tmp_path, wanted=True) is None
    assert not list(tmp_path.iterdir())
