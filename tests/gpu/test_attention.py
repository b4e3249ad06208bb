"""Check on a GPU that every attention kernel gives the same losses, with and without rows that are joined."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import Bench
from click.testing import Result
from refusals import refused

pytestmark = pytest.mark.gpu

QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")


def trained(recipe: Path, adapterzoo: Callable[..., Result], out: Path, *overrides: str) -> dict[str, Any]:
    """Run a recipe with lora alone and return its result."""
    sets = [
        part for override in ("evaluate.base=false", "evaluate.shots=0", *overrides) for part in ("--set", override)
    ]
    done = adapterzoo("run", recipe, *sets, "--out", out)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "lora/seed-0/result.json").read_text())
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_joined_rows_give_the_losses_of_padded_rows(
    dtype: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    from adapterzoo.model.row_attention import in_one_kernel

    recipe = write_recipe("lora", dtype=dtype)
    with Bench(recipe).load("none").borrow() as model:
        assert in_one_kernel(model) == (dtype != "float32"), "FlashAttention computes all rows of a batch at once"
    joined = trained(recipe, adapterzoo, tmp_path / "joined")
    padded = trained(recipe, adapterzoo, tmp_path / "padded", "train.share_prefix=never")
    tolerance = 1e-4 if dtype == "float32" else 0.03
    for first, second in zip(joined["history"], padded["history"], strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=tolerance)
    assert joined["metrics"]["test_loss"] == pytest.approx(padded["metrics"]["test_loss"], abs=tolerance)
    if dtype != "float32":  # FlashAttention computes in 16 bits only, and without it joined rows are slower on a GPU
        assert joined["positions_per_token"] < 1 < padded["positions_per_token"]


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention", "flash_attention_2"])
def test_attention_kernels_agree(
    attention: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    from transformers.utils import is_flash_attn_2_available

    recipe = write_recipe("lora", dtype="bfloat16", steps="3")
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        done = adapterzoo("check", recipe, "--set", f"model.attention={attention}")
        refused(done, "needs the package flash-attn", "pip install flash-attn")
        pytest.skip("flash-attn is not installed: it was refused")
    eager = trained(recipe, adapterzoo, tmp_path / "eager", "model.attention=eager")
    other = trained(recipe, adapterzoo, tmp_path / attention, f"model.attention={attention}")
    for first, second in zip(eager["history"], other["history"], strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=0.05)
    assert other["metrics"]["test_loss"] == pytest.approx(eager["metrics"]["test_loss"], abs=0.05)
