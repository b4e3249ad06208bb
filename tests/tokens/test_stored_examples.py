"""Token ids that are too many for the memory stay on disk, and a run with them is the same to the last bit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapterzoo.data import stored_rows
from adapterzoo.data.split import Splits
from adapterzoo.data.stored_rows import StoredRows
from adapterzoo.errors import UserError
from adapterzoo.prepare.examples import encode_data
from adapterzoo.prepare.prepare import prepare
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.tasks.batches import hidden_rows, sealed, shuffled_batches
from adapterzoo.tasks.examples import sizes
from adapterzoo.tasks.registry import tasks
from adapterzoo.tokens.encode import Encoder
from adapterzoo.tokens.show import length_summary, split_summary
from adapterzoo.tokens.stored_examples import StoredExamples

SPLITS = ("train", "validation", "test")
CUT = ("data.max_length=31", "data.truncate=drop")
Prepare = Callable[..., tuple[Prepared, list[str]]]


@pytest.fixture
def prepared(write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Return a function that prepares a recipe, with the rows in memory or on disk."""
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path / "cache"))

    def run(*overrides: str, on_disk: bool) -> tuple[Prepared, list[str]]:
        monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0 if on_disk else 2**26)
        said: list[str] = []
        return prepare(load_recipe(write_recipe("lora"), overrides), say=said.append), said

    return run


@pytest.mark.parametrize("overrides", [(), CUT, ("data.packing=true",)], ids=["usual", "cut", "packed"])
def test_examples_on_disk_are_the_examples_in_memory(
    prepared: Prepare, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, said = prepared(*overrides, on_disk=False)
    for _ in range(2):
        stored, said_again = prepared(*overrides, on_disk=True)
        assert (said_again, stored.fingerprints, stored.steps) == (said, expected.fingerprints, expected.steps)
        encoded, usual = stored.encoded, expected.encoded
        for name in SPLITS:
            examples = getattr(encoded, name)
            assert isinstance(examples, StoredExamples)
            assert [*examples] == getattr(usual, name) == examples[:]
            assert [*sizes(examples)] == sizes(getattr(usual, name))
            assert split_summary(name, examples) == split_summary(name, getattr(usual, name))
        assert length_summary(encoded) == length_summary(usual)
        assert [*encoded.training_rows] == [*usual.training_rows]
        assert encoded.longest_row == usual.longest_row
        joinable, usual_joinable = (of.encoded.joinable(of.recipe.evaluate) for of in (stored, expected))
        assert joinable is not None
        assert usual_joinable is not None
        assert ([*joinable.rows], joinable.longest) == ([*usual_joinable.rows], usual_joinable.longest)
        batches = [[*shuffled_batches(sealed(of.encoded), 4, 7)()] for of in (stored, expected)]
        assert json.dumps(batches[0], default=str) == json.dumps(batches[1], default=str)
        # The second time, nothing is tokenized but test prompts with examples in front.
        monkeypatch.setattr(Encoder, "encode", None)


def test_test_rows_on_disk_are_hidden_from_methods(prepared: Prepare) -> None:
    encoded = prepared(on_disk=True)[0].encoded
    test = [*encoded.test]
    with hidden_rows(encoded):
        assert (len(encoded.test), [*encoded.test], len(encoded.validation)) == (0, [], 0)
        assert test[0].row.prompt.encode() not in pickle.dumps(encoded.training_only())
    assert [*encoded.test] == test


def test_a_run_from_disk_is_the_same_to_the_last_bit(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, found = write_recipe("lora", steps="3"), []
    for limit in (2**26, 0):
        monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", limit)
        out = tmp_path / str(limit)
        monkeypatch.setenv("ADAPTERZOO_CACHE", str(out / "cache"))
        assert adapterzoo("run", recipe, "--out", out / "run", "--set", "train.eval_steps=2").exit_code == 0
        cell = out / "run" / "lora" / "seed-0"
        metrics = json.loads((cell / "result.json").read_text())["metrics"]
        files = (cell / "adapter" / "adapter_model.safetensors", cell / "predictions.jsonl")
        found.append((metrics, *(path.read_bytes() for path in files)))
        assert (out / "cache" / "rows").exists() is (limit == 0)
    assert found[0] == found[1]


def test_what_would_not_fit_into_the_memory_is_refused(
    prepared: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("adapterzoo_plugins.tasks.supervised.MAX_SHOWN_TOKENS", 50)
    with pytest.raises(
        UserError, match=r"evaluate.shots: with 2 examples in front, the 8 test rows have [\d,]+ tokens"
    ):
        prepared(on_disk=True)
    assert prepared("evaluate.shots=0", on_disk=True)
    run, _ = prepared("evaluate.shots=0", on_disk=True)
    rows, said = run.encoded.train._examples[3], list[str]()
    assert isinstance(rows, StoredRows)
    monkeypatch.setattr("adapterzoo.prepare.examples.MEMORY_PER_BYTE", 10**12)
    recipe = load_recipe(tmp_path / "recipe.yaml").model_copy()
    recipe.task.name = "classification"
    splits = Splits(rows, [], rows, "fingerprint", "qa")
    with pytest.raises(UserError, match=r"data.split: the task classification holds test rows in memory, in about"):
        encode_data(recipe, run.location, None, splits, lambda message: None)
    monkeypatch.setattr(type(tasks()["classification"]), "from_disk", False)
    with pytest.raises(UserError, match=r"data.source: the task classification holds all rows in memory, in about"):
        encode_data(recipe, run.location, None, splits, lambda message: None)
    monkeypatch.setattr("adapterzoo.prepare.examples.MEMORY_PER_BYTE", 10)
    given: list[Any] = []
    monkeypatch.setattr(type(tasks()["classification"]), "encode", lambda self, rows: given.append(rows.rows))
    encode_data(recipe, run.location, None, splits, said.append)
    assert given[0].train == [*rows], "a list, because tasks may tell rows apart by identity"
    assert "data: the task classification holds all rows in memory, in about" in said[0]


def test_an_example_whose_file_is_gone_is_an_error_that_says_so(prepared: Prepare, tmp_path: Path) -> None:
    examples = prepared(on_disk=True)[0].encoded.train
    written = pickle.dumps(examples)
    for path in (tmp_path / "cache" / "tokens").glob("*.arrow"):
        path.unlink()
    assert [*examples], "it is still mapped"
    with pytest.raises(UserError, match=r"tokens/.*cannot be read.*on the machine that has the file"):
        pickle.loads(written)[0]  # noqa: S301  # it was written just now
