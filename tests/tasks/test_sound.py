"""The kit finds every built-in task sound, and a broken one not."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from adapterzoo import Reward
from adapterzoo.conformance import check_task
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.rewards.registry import rewards
from adapterzoo.tasks.evaluation import Evaluation
from adapterzoo.tasks.registry import tasks

WORDS = ("table", "river", "stone", "cloud", "paper", "train", "glass", "horse", "music", "bread")
TEXTS = [f"{('good', 'bad')[n % 2]} {WORDS[n // 2 % 10]} {n}" for n in range(40)]
LABELS = [("positive", "negative")[n % 2] for n in range(40)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "supervised": [{"question": text, "answer": label} for text, label in zip(TEXTS, LABELS, strict=True)],
    "seq2seq": [{"question": text, "answer": label} for text, label in zip(TEXTS, LABELS, strict=True)],
    "classification": [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)],
    "token_classification": [
        {"words": text.split(), "tags": [f"B-{label[:3].upper()}", "O", "O"]}
        for text, label in zip(TEXTS, LABELS, strict=True)
    ],
    "question_answering": [{"question": "How is it?", "context": text, "answer": text.split()[0]} for text in TEXTS],
    "preference": [
        {"prompt": text, "chosen": label, "rejected": f"not {label}"} for text, label in zip(TEXTS, LABELS, strict=True)
    ],
    "embedding": [{"anchor": text, "positive": f"{text.split()[1]} {n}"} for n, text in enumerate(TEXTS)],
    "reinforcement": [{"prompt": text, "answer": "a"} for text in TEXTS],
    "reward": [{"chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(40)],
}


OPTIONS: dict[str, dict[str, Any]] = {"reinforcement": {"rewards": ["letters"], "max_new_tokens": 4}}


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a reward that answers without any training get often enough."""
    reward = Reward("letters", lambda answer, row: sum(map(str.isalpha, answer)) / max(len(answer), 1), "a test")
    monkeypatch.setitem(rewards()._items, "letters", reward)


def test_every_built_in_task_is_tried() -> None:
    assert ROWS.keys() == {name for name in tasks() if tasks().package(name) == "adapterzoo"}


@pytest.mark.parametrize("name", ROWS)
def test_a_built_in_task_is_sound(name: str) -> None:
    check_task(name, ROWS[name], "lora", "t5" if name == "seq2seq" else "llama", **OPTIONS.get(name, {}))


@pytest.mark.parametrize(
    ("broken", "wanted"),
    [
        ({"training_only": lambda self: self}, "keeps test rows"),
        ({"evaluate": lambda self, *_, **__: Evaluation({"loss": float("nan")}, [], None)}, "not a finite number"),
        ({"evaluate": lambda self, *_, **__: Evaluation({"loss": 1.0}, [], None)}, "a prediction for each test row"),
        ({"loss": lambda self, model, arguments: 0 * model(**arguments).loss}, "the loss on the training rows went"),
    ],
)
def test_a_broken_task_is_not(broken: dict[str, Any], wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[type(tasks()["classification"]).__module__]
    for name, function in broken.items():
        monkeypatch.setattr(module.LabelledTexts, name, function)
    with pytest.raises(AssertionError, match=wanted):
        check_task("classification", ROWS["classification"], "lora")


def test_a_task_that_reads_rows_from_disk_must_get_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[type(tasks()["classification"]).__module__]
    usual = module.read_splits

    def in_lists(given: Any, read: Any, kinds: Any) -> Any:
        return {name: [e for _, e in read(name, getattr(given.rows, name), print)] for name in SPLIT_NAMES}

    def misplaced(given: Any, read: Any, kinds: Any) -> Any:
        def reading(split: str, rows: Any, say: Any) -> Any:
            return ((max(number - 1, 0), example) for number, example in read(split, rows, say))

        return usual(given, reading, kinds)

    for broken, wanted in ((in_lists, "makes a list of the training rows"), (misplaced, "become other examples")):
        monkeypatch.setattr(module, "read_splits", broken)
        with pytest.raises(AssertionError, match=wanted):
            check_task("classification", ROWS["classification"], "lora")
