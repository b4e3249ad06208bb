"""Give random and damaged inputs to every reader of files: bench/fuzz.py does the same with many more."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import CORPUS, TARGETS, fuzz, try_input

INPUTS = 250  # of all targets together
KEPT = [pytest.param(path, id=f"{path.parent.name}-{path.name}") for path in sorted(CORPUS.glob("*/*"))]


@pytest.mark.parametrize("target", TARGETS)
def test_random_and_damaged_inputs_raise_only_documented_errors(target: str, tmp_path: Path) -> None:
    found = fuzz(target, max(2, INPUTS * TARGETS[target].share // 1000), tmp_path)
    assert found is None, f"this input of {target} raised another error: {found!r}"


@pytest.mark.parametrize("path", KEPT)
def test_inputs_that_found_something_raise_only_documented_errors(path: Path, tmp_path: Path) -> None:
    try_input(path.parent.name, path.read_bytes(), tmp_path)


def test_a_reader_that_raises_another_error_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapterzoo.recipe import reading

    def careless(path: Path, overrides: tuple[str, ...] = ()) -> None:
        assert b"lora" not in path.read_bytes()

    monkeypatch.setattr(reading, "load_recipe", careless)
    found = fuzz("recipe", 100, tmp_path)
    assert found is not None
    assert b"lora" in found
