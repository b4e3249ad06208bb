"""A row is the method and nothing else: whatever ran before, and in whatever process, the adapter is the same."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cells import Bench, assert_same
from click.testing import Result
from conftest import METHODS
from safetensors.torch import load_file


def adapter(out: Path, label: str) -> dict[str, object]:
    return load_file(out / label / "seed-0" / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_each_adapter_is_the_one_of_a_fresh_process_in_any_order(
    quantization: str,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    adapterzoo_process: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    setting = f"model.quantization={quantization}"
    for name, methods in (("forwards", METHODS), ("backwards", METHODS[::-1])):
        recipe = write_recipe(", ".join(methods), name=f"{name}.yaml", dtype="bfloat16")
        assert adapterzoo("run", recipe, "--set", setting, "--out", tmp_path / name).exit_code == 0

    def alone(label: str) -> subprocess.CompletedProcess[str]:
        # No base row either: the cell is the first thing that ever happens to its base.
        arguments = ("-m", label, "--set", setting, "--set", "evaluate.base=false", "--out", tmp_path / "alone" / label)
        return adapterzoo_process("run", recipe, *arguments)

    with ThreadPoolExecutor(2) as pool:
        for label, done in zip(METHODS, pool.map(alone, METHODS), strict=True):
            assert done.returncode == 0, (label, done.stderr)
    for label in METHODS:
        expected = adapter(tmp_path / "alone" / label, label)
        assert_same(adapter(tmp_path / "forwards", label), expected)
        assert_same(adapter(tmp_path / "backwards", label), expected)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_evaluation_before_and_during_training_changes_nothing(
    quantization: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """On nf4 bitsandbytes repacks the weights in the first evaluation, and training would go wrong in silence."""
    from adapterzoo.evaluate import evaluate

    recipe = write_recipe("lora", dtype="bfloat16", steps="8")
    bench = Bench(recipe)
    at_once = bench.adapter("lora", bench.load(quantization), tmp_path / "at-once")
    loaded = bench.load(quantization)
    with loaded.lend() as model:
        before, *_ = evaluate(model, bench.prepared.encoded, bench.recipe.evaluate)
    assert_same(bench.adapter("lora", loaded, tmp_path / "after"), at_once)
    with loaded.lend() as model:
        assert evaluate(model, bench.prepared.encoded, bench.recipe.evaluate)[0] == before
    recipe.write_text(recipe.read_text().replace("  steps: 8\n", "  steps: 8\n  eval_steps: 3\n"))
    watched = Bench(recipe)
    with watched.wrapped("lora", loaded) as model:
        history = watched.train("lora", model, tmp_path / "watched" / "checkpoints").history
        watched.method("lora")[0].save(model, tmp_path / "watched" / "adapter")
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [3, 6, 8]
    assert_same(load_file(tmp_path / "watched" / "adapter" / "adapter_model.safetensors"), at_once)


def test_the_next_row_does_not_see_what_a_method_changed(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Methods that change weights of the base, look at data first, replace whole layers or answer in their own way."""
    before = ("pissa", "full", "eva", "ln-tuning", "llama-adapter", "prompt-tuning", "poly", "lora-scratch", "hra")
    bench = Bench(write_recipe(f"lora, {', '.join(before)}", dtype="bfloat16", steps="3"))
    loaded = bench.load("none")
    alone = bench.adapter("lora", loaded, tmp_path / "alone")
    for label in before:
        with bench.wrapped(label, loaded) as model:
            bench.train(label, model, tmp_path / label)
        assert_same(bench.adapter("lora", loaded, tmp_path / f"after-{label}"), alone)


@pytest.mark.parametrize("label", ["lora", "ia3", "oft", "adalora"])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    label: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    class StopError(Exception):
        pass

    def stop_at_five(step: int, *_: object) -> None:
        if step == 5:
            raise StopError

    recipe = write_recipe(label, steps="8")
    whole = Bench(recipe)
    loaded = whole.load("none")
    expected = whole.adapter(label, loaded, tmp_path / "whole")
    recipe.write_text(recipe.read_text().replace("  steps: 8\n", "  steps: 8\n  save_steps: 2\n"))
    bench = Bench(recipe)
    with pytest.raises(StopError):
        bench.adapter(label, loaded, tmp_path / "parts", on_step=stop_at_five)
    assert (tmp_path / "parts" / "checkpoints" / "checkpoint-4").is_dir()
    steps: list[int] = []
    resumed = bench.adapter(label, loaded, tmp_path / "parts", on_step=lambda step, *_: steps.append(step))
    assert steps[0] == (5 if bench.method(label)[0].resumes else 1)
    assert_same(resumed, expected)
    shutil.rmtree(tmp_path / "parts")


def test_what_a_method_does_to_the_base_is_undone(write_recipe: Callable[..., Path]) -> None:
    import torch
    from torch import nn

    bench = Bench(write_recipe("lora"))
    loaded = bench.load("none")
    prompt = torch.tensor([bench.prepared.encoded.test[0].prompt])
    with torch.no_grad():
        before = loaded.model(prompt).logits
    with loaded.lend() as model, torch.no_grad():
        layer = model.model.layers[0]
        layer.mlp = nn.Identity()
        layer.self_attn.q_proj.weight.add_(1)
        layer.self_attn.k_proj.weight.requires_grad_(True)
        layer.register_forward_hook(lambda *_: None)
        model.forward = lambda *_, **__: None
        model.config.use_cache = False
        model.new = nn.Linear(1, 1)
        model.train()
    after = loaded.model
    with torch.no_grad():
        assert after(prompt).logits.equal(before)
    assert not [p for p in after.parameters() if p.requires_grad]
    assert not after.training
    assert after.config.use_cache
    assert not hasattr(after, "new")
    assert not after.model.layers[0]._forward_hooks
