"""Why a model cannot be had, in words and with the cure; before any weight is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from adapterzoo.loading import refused
from adapterzoo.recipe import ModelSection


@pytest.fixture
def own_code(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that comes with code, which is for another version of what it imports."""
    folder = tmp_path / "own"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
        "class MineForCausalLM:\n    def __init__(self, *a, **k):\n        raise AttributeError('gone in version 5')\n"
    )
    return folder


def test_code_that_comes_with_a_model_is_not_run_unasked(
    own_code: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("check", write_recipe("lora"), "--set", f"model.name={own_code}")
    assert done.exit_code == 2
    text = " ".join(done.stderr.split())
    assert "it comes with code of its own, which is not run unasked" in text
    assert "If you trust its authors: model.trust_remote_code: true." in text


def test_code_that_comes_with_a_model_and_cannot_be_run(
    own_code: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    sets = ("--set", f"model.name={own_code}", "--set", "model.trust_remote_code=true")
    done = adapterzoo("check", write_recipe("lora"), *sets)
    assert done.exit_code == 2, done.output
    text = " ".join(done.stderr.split())
    assert "cannot be loaded: " in text
    assert "Its own code may be made for another version of transformers." in text
    assert "Traceback" not in text


def test_a_gated_model_is_told_from_a_missing_one() -> None:
    model = ModelSection(name="meta-llama/Llama-2-7b-hf")
    gated = str(refused(model, OSError("You are trying to access a gated repo.\nMake sure to have access")))
    assert "it is gated" in gated
    assert "https://huggingface.co/meta-llama/Llama-2-7b-hf" in gated
    missing = str(refused(model, OSError("meta-llama/Llama-2-7b-hf is not a local folder and is not a valid model")))
    assert "gated" not in missing
