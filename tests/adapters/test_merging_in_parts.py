"""Merge and export with little free memory: one part of the model after the other, with the same result to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from adapterzoo.model import base, parts
from adapterzoo.recipe.schema import ModelSection

LEARN = ("--set", "train.learning_rate=1e-2", "--set", "train.steps=4", "--set", "evaluate.max_new_tokens=1")
# PEFT's layers, some of which share numbers with all others, and layers of our own; waveft cannot merge parts.
METHODS = ("lora", "vera", "lora-scratch", "waveft")
OPTIONS = {"waveft": "{name: waveft, n_frequency: 32}"}


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call the free memory is enough for one block of the model."""
    return lambda: monkeypatch.setattr(parts, "available", lambda: 1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


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
        assert_equal(weights(merged), weights(whole))
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
    # Where the weights are is no part of a run's identity, so it may be changed in the recipe that the run has kept.
    places = ("--set", "model.device_map=auto", "--set", "model.max_memory={cpu: 250kB}")
    assert adapterzoo("run", recipe, *LEARN, *places, "--out", out).exit_code == 0
    little_memory()
    for number, step in enumerate(steps):
        done = adapterzoo(*step, tmp_path / f"disk-{number}")
        assert done.exit_code == 0, done.output
        assert_equal(weights(tmp_path / f"disk-{number}"), weights(tmp_path / f"memory-{number}"))


def test_only_one_block_has_content_at_a_time(tiny_model: Path, little_memory: Callable[[], None]) -> None:
    section = ModelSection(name=str(tiny_model), quantization="nf4", dtype="float32")
    loaded = base.load(section, str(tiny_model), "nf4", 64)
    little_memory()
    with loaded.borrow() as model:
        before = {name: id(module) for name, module in model.named_modules()}
        found: list[set[str]] = []
        for part in parts.parts(model, "nf4", "float32"):
            found.append({name for name, tensor in part.model.named_parameters() if not parts.is_empty(tensor)})
            stored = sum(p.untyped_storage().nbytes() for p in part.model.parameters() if parts.is_empty(p))
            assert stored < 1000, "zeros take no memory"
            assert all(parameter.is_floating_point() for parameter in part.model.parameters())
        assert {name: id(module) for name, module in model.named_modules()} == before
    blocks = [{name for name in names if ".layers." in name} for names in found]
    assert all(name.startswith("model.layers.0.") for name in blocks[0])
    assert all(name.startswith("model.layers.1.") for name in blocks[1])
    assert found[1] == blocks[1], "what is in no block belongs to the first part"
    assert not loaded.was_changed


def test_blocks_that_share_weights_stay_together(little_memory: Callable[[], None]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model: Any = LlamaForCausalLM(
        LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=3)
    )
    model.model.layers[2].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    little_memory()
    (only,) = parts.parts(model, "none", "float32")
    assert only.total == 1
    layers = only.model.model.layers
    assert layers[2].self_attn.q_proj.weight is layers[0].self_attn.q_proj.weight
