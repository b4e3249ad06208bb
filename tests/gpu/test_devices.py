"""Check on GPUs that several processes, and a model that is partly in other memory, give the results of one process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cell_ranks import QUIET, RANKS, adapter, result
from cells import exit_code
from tiny import RECIPE

pytestmark = pytest.mark.gpu

METHODS = ("lora", "ia3", "adalora", "oft", "qlora")
# Batches of five rows cannot be divided evenly, and the last one of an epoch has four.
SETS = (*QUIET, "--set", "train.batch_size=5", "--set", "train.steps=3", "--set", "jobs=0")
TOLERANCE = 2e-3
ON_SHARED_GPU = Path(__file__).parents[1] / "support" / "rank_on_shared_gpu.py"


@pytest.fixture(scope="module")
def usual(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, and what it gives in one process."""
    folder = tmp_path_factory.mktemp("devices")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS)), encoding="utf-8")
    assert exit_code(["run", str(recipe), *SETS, "--out", str(folder / "out")]) == 0
    return folder


def assert_alike(usual: Path, out: Path, labels: Sequence[str] = METHODS) -> None:
    """Assert that cells have the losses, the measurements and the weights that they have in one process."""
    for label in labels:
        expected, found = result(usual / "out", label), result(out, label)
        assert losses(found) == pytest.approx(losses(expected), abs=TOLERANCE), label
        assert found["metrics"] == pytest.approx(expected["metrics"], abs=TOLERANCE), label
        weights = adapter(out, label)
        for name, tensor in adapter(usual / "out", label).items():
            assert (tensor - weights[name]).abs().max() < TOLERANCE, (label, name)


def losses(found: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in found["history"]]


@pytest.mark.parametrize("sharding", ["none", "fsdp2", "zero2", "zero3"])
def test_two_processes_that_a_launcher_has_started_give_the_results_of_one(
    sharding: str, usual: Path, tmp_path: Path
) -> None:
    """On a machine with one GPU both use it, through gloo; NCCL needs two."""
    import torch

    if sharding.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("needs DeepSpeed (pip install 'adapterzoo[deepspeed]')")
    program = ["-m", "adapterzoo"] if torch.cuda.device_count() > 1 else [str(ON_SHARED_GPU)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    wanted = [*SETS, *RANKS, "--set", f"train.sharding={sharding}", "--out", str(tmp_path / "o")]
    done = subprocess.run(
        [*launcher, *program, "run", str(usual / "recipe.yaml"), *wanted], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_alike(usual, tmp_path / "o")


def test_a_model_that_is_partly_in_the_memory_of_the_cpu_gives_the_same(usual: Path, tmp_path: Path) -> None:
    spread = "--set", "model.device_map=sequential", "--set", "model.max_memory={0: 300kB, cpu: 10GB}"
    labels = [label for label in METHODS if label != "qlora"]  # offloaded weights are not quantized
    methods = [part for label in labels for part in ("-m", label)]
    assert exit_code(["run", str(usual / "recipe.yaml"), *methods, *SETS, *spread, "--out", str(tmp_path / "o")]) == 0
    assert_alike(usual, tmp_path / "o", labels)
