"""Check runs whose base model is not wholly in memory: they give the same files, and go on without that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import assert_same, exit_code
from click.testing import Result
from safetensors.torch import load_file
from tiny import RECIPE

QUICK = ("--set", "train.steps=2", "--set", "evaluate.max_new_tokens=2")
ON_DISK = ("--set", "model.device_map=sequential", "--set", "model.max_memory={cpu: 250kB}")


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spread") / "recipe.yaml"
    path.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods="lora"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def spread(recipe: Path) -> Path:
    assert exit_code(["run", str(recipe), *QUICK, *ON_DISK, "--jobs", "1", "--out", str(recipe.parent / "spread")]) == 0
    return recipe.parent / "spread"


def test_a_run_from_the_disk_is_that_from_memory(
    recipe: Path, spread: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    assert adapterzoo("run", recipe, *QUICK, "--set", "jobs=0", "--out", tmp_path / "o").exit_code == 0
    name = "lora/seed-0/adapter/adapter_model.safetensors"
    assert_same(load_file(spread / name), load_file(tmp_path / "o" / name))
    found, expected = (json.loads((out / "lora/seed-0/result.json").read_text()) for out in (spread, tmp_path / "o"))
    assert found["metrics"] == expected["metrics"]
    assert found["total_params"] == expected["total_params"]
    for row in ("lora", "base", "base-2-shot"):
        predictions = Path(row, "seed-0", "predictions.jsonl")
        assert (spread / predictions).read_text() == (tmp_path / "o" / predictions).read_text()


def test_where_weights_are_kept_may_change_during_a_run(
    recipe: Path, spread: Path, adapterzoo: Callable[..., Result]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in spread.rglob("result.json")}
    done = adapterzoo("run", recipe, *QUICK, "--out", spread)
    assert done.exit_code == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in spread.rglob("result.json")}


def test_adapters_are_asked_from_the_disk_and_merged_in_memory(
    spread: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    asked = adapterzoo("generate", spread, "-m", "lora", "--prompt", "walk", "--base")
    assert asked.exit_code == 0, asked.output
    done = adapterzoo("merge", spread, "-m", "lora", "--to", tmp_path / "merged")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "merged" / "model.safetensors").is_file()
