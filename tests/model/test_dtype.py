"""Check that the number format is one that the machine is fast with, if the recipe leaves it open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from adapterzoo.model import dtype
from adapterzoo.recipe.reading import load_recipe


def chosen(path: Path) -> tuple[str, list[str]]:
    """Return the number format of a recipe on this machine, and what was said about it."""
    said = list[str]()
    return dtype.with_fast_dtype(load_recipe(path).model, said.append).dtype, said


def test_a_processor_without_instructions_for_it_computes_in_float32(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dtype, "slowness", lambda name: 48.0)
    recipe, why = write_recipe("lora", dtype="auto"), "this processor takes 48 times as long in bfloat16 as in float32"
    done = adapterzoo("run", recipe, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert f"model.dtype: {why}, so it is float32" in " ".join(done.stderr.split())
    assert "dtype: float32" in (tmp_path / "out" / "recipe.yaml").read_text()
    assert json.loads((tmp_path / "out" / ".adapterzoo.json").read_text())["identity"]["model"]["dtype"] == "float32"
    assert chosen(write_recipe("lora", dtype="bfloat16")) == (
        "bfloat16",
        [f"model.dtype: {why}; auto would choose float32"],
    )
    assert chosen(write_recipe("lora", dtype="float32")) == ("float32", [])


def test_other_processors_compute_in_bfloat16(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtype, "slowness", lambda name: 1.5)
    assert chosen(write_recipe("lora", dtype="auto")) == ("bfloat16", [])
    assert chosen(write_recipe("lora", dtype="float16")) == ("float16", [])


def test_an_old_gpu_computes_in_float16(write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype, "slowness", lambda name: pytest.fail("the CPU does not compute"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for supported, expected in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, answer=supported: answer)
        assert chosen(write_recipe("lora", dtype="auto"))[0] == expected


def test_what_is_slow_is_measured() -> None:
    assert 0.2 < dtype.slowness("float32") < dtype.SLOW
