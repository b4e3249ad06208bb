"""Merge adapters that were trained on a GPU, in one part and in several, and load what was merged in several places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cells import assert_same, saved_weights
from click.testing import Result

from adapterzoo.adapters import merging
from adapterzoo.model import parts

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("label", ["lora", "qlora"])
def test_parts_give_the_same_model(
    label: str,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    sets = ("--set", "model.dtype=bfloat16", "--set", "train.learning_rate=1e-2", "--set", "train.steps=12")
    assert adapterzoo("run", write_recipe(label), *sets, "--out", out).exit_code == 0
    assert adapterzoo("merge", out, "-m", label, "--to", tmp_path / "whole").exit_code == 0
    monkeypatch.setattr(parts, "available", lambda: 1)
    monkeypatch.setattr(merging, "available", lambda: 1)
    done = adapterzoo("merge", out, "-m", label, "--to", tmp_path / "parts")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) == 2
    assert_same(saved_weights(tmp_path / "parts"), saved_weights(tmp_path / "whole"))
