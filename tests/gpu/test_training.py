"""Check on a GPU that training gives what it gives on a CPU, in every number format, and the same bits each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import Bench, StopError, assert_same, stop_at_five
from click.testing import Result
from tiny import METHODS

pytestmark = pytest.mark.gpu

QUIET = ("--set", "evaluate.shots=0")
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def results(out: Path) -> dict[str, dict[str, Any]]:
    """Return label -> result of the first seed; every cell must have finished."""
    found = {path.parts[-3]: json.loads(path.read_text()) for path in out.glob("*/seed-0/result.json")}
    assert {label: result["error"] for label, result in found.items()} == dict.fromkeys(found)
    return found


def losses(result: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in result["history"] if "loss" in entry]


def test_the_losses_are_those_of_a_cpu(
    write_recipe: Callable[..., Path], adapterzoo_process: Callable[..., Any], tmp_path: Path
) -> None:
    """In float32, so that only the order of additions differs; qlora's base model is in nf4 on both."""
    recipe = write_recipe()
    for name, environment in (("gpu", {}), ("cpu", NO_GPU)):
        done = adapterzoo_process("run", recipe, *QUIET, "--out", tmp_path / name, **environment)
        assert done.returncode == 0, done.stderr
    gpu, cpu = results(tmp_path / "gpu"), results(tmp_path / "cpu")
    assert gpu.keys() == cpu.keys() == {*METHODS, "base"}
    for label in METHODS:
        assert losses(gpu[label]) == pytest.approx(losses(cpu[label]), abs=2e-3), label
    for label in gpu:
        assert gpu[label]["metrics"]["test_loss"] == pytest.approx(cpu[label]["metrics"]["test_loss"], abs=2e-3), label


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_two_runs_give_the_same_bits_in_processes_and_in_this_one(
    dtype: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    recipe = write_recipe(dtype=dtype)
    for name, jobs in (("first", "auto"), ("second", "0")):
        done = adapterzoo("run", recipe, *QUIET, "--set", f"jobs={jobs}", "--out", tmp_path / name)
        assert done.exit_code == 0, done.stderr
    first, second = results(tmp_path / "first"), results(tmp_path / "second")
    for label in METHODS:
        assert losses(first[label]) == losses(second[label]), label
        assert losses(first[label])[-1] < losses(first[label])[0] + 0.2, f"{label} does not learn"
        paths = [tmp_path / name / label / "seed-0/adapter/adapter_model.safetensors" for name in ("first", "second")]
        assert_same(load_file(paths[0]), load_file(paths[1]))


def test_the_number_formats_agree(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    found = {}
    for dtype in ("float32", "bfloat16", "float16"):
        done = adapterzoo("run", write_recipe("lora, oft", dtype=dtype), *QUIET, "--out", tmp_path / dtype)
        assert done.exit_code == 0, done.stderr
        found[dtype] = results(tmp_path / dtype)
    for label in ("lora", "oft"):
        for dtype in ("bfloat16", "float16"):
            assert losses(found[dtype][label]) == pytest.approx(losses(found["float32"][label]), abs=0.05), (
                label,
                dtype,
            )


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
def test_quantized_base_models_are_trained_on(
    quantization: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora, ia3, adalora", dtype="bfloat16")
    sets = ("--set", f"model.quantization={quantization}", "--set", "train.steps=20")
    done = adapterzoo("run", recipe, *QUIET, *sets, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    found = results(tmp_path / "out")
    for label in ("lora", "ia3", "adalora"):
        assert found[label]["quantization"] == quantization
    assert losses(found["lora"])[-1] < losses(found["lora"])[0]


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"])
def test_optimizers_of_gpus_train_and_go_on_where_they_were_stopped(
    optimizer: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe("lora", steps="8", dtype="bfloat16")
    usual = Bench(recipe)
    bench = Bench(recipe, f"train.optimizer={optimizer}", "train.save_steps=3")
    base = bench.load("none")

    def history(trained: Any) -> list[float]:
        return [entry["loss"] for entry in trained.history if "loss" in entry]

    with bench.wrapped("lora", base) as model:
        expected = history(usual.train("lora", model, tmp_path / "usual"))
    with bench.wrapped("lora", base) as model:
        whole = history(bench.train("lora", model, tmp_path / "whole"))
    assert whole == pytest.approx(expected, abs=0.05)
    with bench.wrapped("lora", base) as model, pytest.raises(StopError):
        bench.train("lora", model, tmp_path / "stopped", on_step=stop_at_five)
    with bench.wrapped("lora", base) as model:
        resumed = bench.train("lora", model, tmp_path / "stopped")
    assert history(resumed) == pytest.approx(whole, abs=1e-3)


def test_tf32_holds_for_the_model_that_asks_for_it(write_recipe: Callable[..., Path]) -> None:
    import torch

    def error() -> float:
        torch.manual_seed(0)
        first, second = torch.randn(2, 512, 512, dtype=torch.float64)
        product = first.float().cuda() @ second.float().cuda()
        return float((product.double().cpu() - first @ second).abs().max())

    recipe = write_recipe("lora")
    Bench(recipe, "model.tf32=true").load("none")
    assert error() > 1e-3
    Bench(recipe).load("none")
    assert error() < 1e-3
