"""Training rows of any task that are too many for the memory stay on disk, and a run with them is the same."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from task_runs import WORDS, write_recipe

from adapterzoo.conformance.task_check import _model_with_tokenizer
from adapterzoo.data import stored_rows
from adapterzoo.data_row import DataRow
from adapterzoo.errors import UserError
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.examples import read_data
from adapterzoo.prepare.prepare import prepare
from adapterzoo.recipe.reading import kept_recipe, load_recipe
from adapterzoo.results.store import yaml_text
from adapterzoo.tasks.batches import sealed, shuffled_batches
from adapterzoo.tasks.contract import EncodeInput
from adapterzoo.tasks.registry import tasks
from adapterzoo.tokens import kept_examples
from adapterzoo.tokens.kept_examples import KeptExamples
from adapterzoo.tokens.show import length_summary
from adapterzoo.tokens.tokenizer import load_tokenizer

NUMBERS = range(30)
PAIRS = [{"prompt": WORDS[n % 10], "chosen": f"yes {n}", "rejected": f"no {n}" * (1 + n % 3)} for n in NUMBERS]
SAME = [{**row, "prompt": WORDS[n // 6]} for n, row in enumerate(PAIRS)]
JUDGED = [{"prompt": WORDS[n // 4], "completion": f"yes {n}", "label": n % 3 > 0} for n in NUMBERS]
FOUND = [{"anchor": f"{WORDS[n % 10]} {n // 2}", "positive": f"{WORDS[n % 7]} is {n}"} for n in NUMBERS]
ROWS: dict[str, tuple[str, Sequence[dict[str, Any]]]] = {
    "classification": ("classification", [{"text": f"{WORDS[n % 10]} {n}", "label": "ab"[n % 2]} for n in NUMBERS]),
    "labels": ("classification", [{"text": f"{WORDS[n % 10]} {n}", "label": ["a", "b"][: n % 3]} for n in NUMBERS]),
    "numbers": ("{name: classification, labels: number}", [{"text": WORDS[n % 10], "label": n} for n in NUMBERS]),
    "token_classification": (
        "token_classification",
        [{"words": [WORDS[n % 10], f"{n}"], "tags": ["B-x", ("O", "B-y")[n % 9 > 0]]} for n in NUMBERS],
    ),
    "question_answering": (
        "question_answering",
        [
            {"question": f"{n}?", "context": f"a {WORDS[n % 10]} and more " * (1 + 4 * n % 9), "answer": WORDS[n % 10]}
            for n in NUMBERS
        ],
    ),
    "reward": ("reward", PAIRS),
    "texts with a reward": ("reward", [{"chosen": row["chosen"], "rejected": row["rejected"]} for row in PAIRS]),
    "dpo": ("preference", PAIRS),
    "kto": ("preference", JUDGED),
    "kto of pairs": ("{name: preference, loss: kto}", SAME),
    "embedding": ("embedding", FOUND),
    "scores": ("embedding", [{"sentence1": WORDS[n % 10], "sentence2": f"{n}", "score": n / 30} for n in NUMBERS]),
    "reinforcement": (
        "{name: reinforcement, rewards: [exact_match], max_new_tokens: 8}",
        [{"prompt": f"{word} " * (1 + 9 * (n == 2)), "answer": word} for n, word in enumerate([*WORDS, *"abcdefghij"])],
    ),
    "seq2seq": ("seq2seq", [{"question": f"{WORDS[n % 10]} " * (1 + n % 9), "answer": f"{n}"} for n in NUMBERS]),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def test_every_built_in_task_is_tried() -> None:
    names = {load.partition("name: ")[2].partition(",")[0] or load for load, _ in ROWS.values()}
    assert names == {name for name in tasks() if tasks().package(name) == "adapterzoo"} - {"supervised"}


@pytest.mark.parametrize("kind", ROWS)
def test_examples_on_disk_are_those_in_memory(
    kind: str, tiny_model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rows = ROWS[kind]
    model = _model_with_tokenizer("t5") if kind == "seq2seq" else tiny_model
    recipe = load_recipe(write_recipe(tmp_path, model, list(rows), task, max_length=48))
    found = []
    for limit in (2**26, 0, 0):
        monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", limit)
        said: list[str] = []
        found.append((prepare(recipe, say=said.append), said))
    (usual, messages), *others = found
    for stored, said_again in others:
        assert (said_again, stored.fingerprints, stored.steps) == (messages, usual.fingerprints, usual.steps)
        train = stored.encoded.train
        assert isinstance(train, KeptExamples)
        assert [*train] == usual.encoded.train == train[:]
        assert (stored.encoded.validation, stored.encoded.test) == (usual.encoded.validation, usual.encoded.test)
        assert stored.encoded.longest_row == usual.encoded.longest_row
        assert length_summary(stored.encoded) == length_summary(usual.encoded)
        joinable = [of.encoded.joinable(of.recipe.evaluate) for of in (stored, usual)]
        assert [one and ([*one.rows], one.longest) for one in joinable[:1]] == [
            one and ([*one.rows], one.longest) for one in joinable[1:]
        ]
        batches = [[*shuffled_batches(sealed(of.encoded), 4, 7)()] for of in (stored, usual)]
        assert str(batches[0]) == str(batches[1])


@pytest.mark.parametrize("kind", ["dpo", "kto", "classification", "reinforcement"])
def test_a_run_from_disk_is_the_same_to_the_last_bit(
    kind: str,
    tiny_model: Path,
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, rows = ROWS[kind]
    recipe, found = write_recipe(tmp_path, tiny_model, list(rows), task, steps=3), []
    for limit in (2**26, 0):
        monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", limit)
        done = adapterzoo("run", recipe, "--out", tmp_path / str(limit))
        assert done.exit_code == 0, done.stderr
        cell = tmp_path / str(limit) / "lora" / "seed-0"
        metrics = json.loads((cell / "result.json").read_text())["metrics"]
        files = (cell / "adapter" / "adapter_model.safetensors", cell / "predictions.jsonl")
        found.append((metrics, *(path.read_bytes() for path in files)))
    assert found[0] == found[1]
    assert any(path.suffix == ".arrow" for path in cache.iterdir())


@pytest.mark.parametrize("kind", ROWS)
def test_the_recipe_that_a_run_keeps_can_be_run_again(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    """It named keys that only other tasks use, so that it was refused, and workers could do no cell of a plan."""
    task, rows = ROWS[kind]
    recipe, _ = read_data(load_recipe(write_recipe(tmp_path, tiny_model, list(rows), task)), lambda message: None)
    (tmp_path / "kept.yaml").write_text(yaml_text(kept_recipe(recipe, registry())))
    assert load_recipe(tmp_path / "kept.yaml").resolved() == recipe.resolved()


def test_workers_do_a_plan_with_rows_on_disk(
    tiny_model: Path, adapterzoo: Callable[..., Result], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rows = ROWS["dpo"]
    recipe, found = write_recipe(tmp_path, tiny_model, list(rows), task, steps=2), []
    assert adapterzoo("run", recipe, "--out", tmp_path / "alone").exit_code == 0
    monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0)
    assert adapterzoo("run", recipe, "--out", tmp_path / "shared", "--plan-only").exit_code == 0
    done = adapterzoo("work", tmp_path / "shared")
    assert done.exit_code == 0, done.stderr
    for out in ("alone", "shared"):
        cell = tmp_path / out / "lora" / "seed-0"
        found.append(
            [(cell / name).read_bytes() for name in ("adapter/adapter_model.safetensors", "predictions.jsonl")]
        )
    assert found[0] == found[1]


def test_a_file_of_examples_makes_no_other_objects(tmp_path: Path) -> None:
    """Pickle runs what a file says: one that was exchanged must not be able to call anything."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    row = DataRow.pair("a", "b")
    written = kept_examples._written(Evil())
    with pytest.raises(pickle.UnpicklingError, match="is not one of their kinds"):
        kept_examples._Reader(written, row, [DataRow]).load()
    assert not (tmp_path / "touched").exists()


def test_a_change_of_what_examples_depend_on_makes_the_file_new(
    tiny_model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0)
    task, rows = ROWS["question_answering"]
    files = set[str]()
    for task_settings in (task, f"{{name: {task}, stride: 2}}"):
        for length in (24, 20):
            recipe = load_recipe(write_recipe(tmp_path, tiny_model, list(rows), task_settings, max_length=length))
            for _ in range(2):
                prepare(recipe, say=lambda message: None)
                files |= {path.name for path in cache.glob("*.arrow")}
    assert len(files) == 4


@pytest.mark.parametrize("kind", ["dpo", "classification"])
def test_a_cache_that_cannot_be_written_is_named(
    kind: str, tiny_model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows may be there from an earlier command."""
    monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0)
    task, rows = ROWS[kind]
    recipe = load_recipe(write_recipe(tmp_path, tiny_model, list(rows), task))
    cache.parent.mkdir()
    cache.write_text("")
    with pytest.raises(UserError, match=r"cache/tokens: cannot be written.*Set ADAPTERZOO_CACHE to another folder"):
        prepare(recipe, say=lambda message: None)


OWN_TASK = """
from functools import partial
from adapterzoo_plugins.tasks.classification import Classification, LabelledTexts
from adapterzoo.tokens.kept_examples import read_splits
from adapterzoo.tokens.sequences import ReadText, read_texts
class Own(Classification):
    name = "NAME"
    def encode(self, given):
        read = partial(read_texts, tokenizer=given.tokenizer, target=lambda row: NUMBER, max_length=32)
        splits = read_splits(given, read, [ReadText])
        return LabelledTexts(tokenizer=given.tokenizer, pad_id=0, fingerprint="", kind="number", names=(), threshold=0,
                             **splits)
"""


def import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_of_another_task_or_of_changed_code_are_not_used(
    tiny_model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may use the reader of texts that all have: the second task learned the labels of the first."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0)
    folder = tmp_path / "own"
    folder.mkdir()
    recipe = load_recipe(write_recipe(tmp_path, tiny_model, list(ROWS["numbers"][1]), ROWS["numbers"][0]))
    recipe, splits = read_data(recipe, lambda message: None)
    tokenizer = load_tokenizer(recipe.model, str(tiny_model))
    for module, name, number in (("a", "one", 1.0), ("a", "two", 2.0), ("a", "two", 3.0), ("b", "two", 4.0)):
        path = folder / f"{module}.py"
        path.write_text(OWN_TASK.replace("NAME", name).replace("NUMBER", str(number)))
        written = import_file(path)
        monkeypatch.setitem(sys.modules, module, written)
        task = written.Own()
        given = EncodeInput(tokenizer, splits, task.options(), recipe.data, lambda message: None, task=task)
        assert {example.target for example in task.encode(given).train} == {number}
