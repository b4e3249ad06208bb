"""Check on a GPU that a cell without enough memory is one failed row, and what a result says of the GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

LEFT_BYTES = 2 * 2**30
# 2,048 parameters of the tiny model for each unit of the rank: with gradients and the optimizer, 2.6 GB.
TOO_LARGE_RANK = 80_000
QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")


@pytest.fixture
def nearly_full_gpu() -> Iterator[None]:
    """Occupy the memory of the GPU except LEFT_BYTES."""
    import torch

    torch.cuda.empty_cache()
    occupied = torch.empty(torch.cuda.mem_get_info()[0] - LEFT_BYTES, dtype=torch.uint8, device="cuda")
    yield
    del occupied
    torch.cuda.empty_cache()


@pytest.mark.parametrize("jobs", ["0", "1"])
def test_a_cell_without_enough_memory_is_one_failed_row(
    jobs: str, write_recipe: Callable[..., Path], adapterzoo_process: Callable[..., Any], tmp_path: Path,
    nearly_full_gpu: None,
) -> None:  # fmt: skip
    methods = f"lora, {{name: lora, label: large, r: {TOO_LARGE_RANK}}}, ia3"
    done = adapterzoo_process("run", write_recipe(methods), *QUIET, "--jobs", jobs, "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    found = {path.parts[-3]: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/*/result.json")}
    assert found["large"]["status"] == "failed"
    assert found["large"]["error"].startswith("out of memory: ")
    assert found["lora"]["status"] == found["ia3"]["status"] == "ok"


def test_a_result_describes_the_gpu(
    write_recipe: Callable[..., Path], adapterzoo_process: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    done = adapterzoo_process("run", write_recipe("lora"), *QUIET, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out/lora/seed-0/result.json").read_text())
    environment = result["environment"]
    assert environment["device"] == torch.cuda.get_device_name()
    for part in ("GiB", "multiprocessors", "CUDA", "MHz", "driver"):
        assert part in environment["gpu"], environment["gpu"]
    assert 0 < result["peak_memory_bytes"] < torch.cuda.mem_get_info()[1]
