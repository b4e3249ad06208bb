"""Train, ask and merge on torchao's quantizations, and on a model that transformers saved in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from adapterzoo.conformance import Case
from adapterzoo.conformance.quantization import look_at
from adapterzoo.methods.registry import registry

pytest.importorskip("torchao")

FEW = ("--set", "train.steps=4", "--set", "train.learning_rate=1e-2")


@pytest.mark.parametrize("name", ["torchao-int8", "torchao-float8"])
def test_it_is_sound_by_itself(name: str) -> None:
    for look in look_at(name):
        assert not look.problems
        assert look.bytes_per_parameter == pytest.approx(1.02, abs=0.02)
        assert 0.005 < look.change < 0.1


@pytest.mark.parametrize("quantization", ["torchao-int8", "torchao-float8"])
def test_lora_is_sound_on_it(quantization: str) -> None:
    Case(registry()["lora"], "llama", quantization).check()


def test_a_run_is_asked_and_merged_and_a_saved_model_gives_the_same(
    tiny_model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    recipe, folder = write_recipe("lora, ia3"), tmp_path / "model"
    here = adapterzoo("run", recipe, *FEW, "--set", "model.quantization=torchao-int8", "--out", tmp_path / "here")
    assert here.exit_code == 0, here.output
    shutil.copytree(tiny_model, folder)
    AutoModelForCausalLM.from_pretrained(
        tiny_model,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
    ).save_pretrained(folder)
    saved = adapterzoo("run", recipe, *FEW, "--set", f"model.name={folder}", "--out", tmp_path / "saved")
    assert saved.exit_code == 0, saved.output
    for label in ("base", "lora", "ia3"):
        first, second = (
            json.loads((tmp_path / run / label / "seed-0" / "result.json").read_text()) for run in ("here", "saved")
        )
        assert first["quantization"] == second["quantization"] == "torchao-int8"
        assert first["metrics"] == second["metrics"], label
    assert adapterzoo("generate", tmp_path / "here", "-m", "lora", "--prompt", "walk").exit_code == 0
    for run in ("here", "saved"):
        done = adapterzoo("merge", tmp_path / run, "-m", "lora", "-m", "ia3", "--to", tmp_path / f"merged-{run}")
        assert done.exit_code == 0, done.output
        assert "quantization_config" not in json.loads((tmp_path / f"merged-{run}/lora/config.json").read_text())
