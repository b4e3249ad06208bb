"""Merge and export with little free memory: one part of the model after the other, with the same result to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import assert_same, saved_weights
from click.testing import Result

from adapterzoo.model import parts

LEARN = ("--set", "train.learning_rate=1e-2", "--set", "train.steps=4", "--set", "evaluate.max_new_tokens=1")
# PEFT's layers, some of which share numbers with all others, and layers of our own; waveft cannot merge parts.
METHODS = ("lora", "vera", "lora-scratch", "waveft")
OPTIONS = {"waveft": "{name: waveft, n_frequency: 32}"}


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call the free memory is enough for one block of the model."""
    return lambda: monkeypatch.setattr(parts, "available", lambda: 1)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4", "hqq4", "torchao-int8"])
def test_the_merged_model_is_the_same_to_the_bit(
    quantization: str,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    little_memory: Callable[[], None],
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    if quantization.startswith(("hqq", "torchao")):
        pytest.importorskip(quantization.partition("-")[0].rstrip("0123456789"))
    methods = {"none": METHODS, "nf4": ("lora", "ia3")}.get(quantization, ("lora",))
    recipe = write_recipe(", ".join(OPTIONS.get(name, name) for name in methods))
    sets = (*LEARN, "--set", f"model.quantization={quantization}")
    done = adapterzoo("run", recipe, *sets, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    wanted = [part for label in methods for part in ("-m", label)]
    only = "" if len(methods) > 1 else methods[0]  # then the folder is that of the model
    done = adapterzoo("merge", tmp_path / "out", *wanted, "--to", tmp_path / "whole" / only, "--no-measure")
    assert done.exit_code == 0, done.output
    little_memory()
    done = adapterzoo("merge", tmp_path / "out", *wanted, "--to", tmp_path / "parts" / only, "--no-measure")
    assert done.exit_code == 0, done.output
    for label in methods:
        whole, merged = tmp_path / "whole" / label, tmp_path / "parts" / label
        assert_same(saved_weights(merged), saved_weights(whole))
        in_parts = label != "waveft"
        assert (merged / "model.safetensors").exists() != in_parts
        files = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
        assert {path.name for path in merged.glob("model-*.safetensors")} == (files if in_parts else set())
        assert (f"{label}: the whole model has to be in memory" in " ".join(done.stderr.split())) != in_parts
        others = {path.name for path in whole.iterdir() if path.suffix != ".safetensors"}
        assert {path.name for path in merged.iterdir()} - {*files, "model.safetensors.index.json"} >= others
        assert json.loads((merged / "config.json").read_text()) == json.loads((whole / "config.json").read_text())
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "parts" / methods[0], output_loading_info=True)
    assert not any(info.values()), info


def test_from_the_disk(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    little_memory: Callable[[], None],
    tmp_path: Path,
) -> None:
    out, recipe = tmp_path / "out", write_recipe("lora, {name: loha, r: 2}")
    assert adapterzoo("run", recipe, *LEARN, "--out", out).exit_code == 0
    steps = [
        ("merge", out, "-m", "lora", "--to"),
        ("export", out, "-m", "lora", "--as", "lora", "--to"),
        ("export", out, "-m", "loha", "--as", "lora", "--to"),
    ]
    for number, step in enumerate(steps):
        assert adapterzoo(*step, tmp_path / f"memory-{number}").exit_code == 0
    # A run may go on with its weights in other places.
    places = ("--set", "model.device_map=auto", "--set", "model.max_memory={cpu: 250kB}")
    assert adapterzoo("run", recipe, *LEARN, *places, "--out", out).exit_code == 0
    little_memory()
    for number, step in enumerate(steps):
        done = adapterzoo(*step, tmp_path / f"disk-{number}")
        assert done.exit_code == 0, done.output
        assert_same(saved_weights(tmp_path / f"disk-{number}"), saved_weights(tmp_path / f"memory-{number}"))
