"""Check that two processes divide the batches and the measurements of each task, unless its loss forbids it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from task_runs import WORDS, assert_refused, write_recipe

NUMBERS = range(30)
ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": f"{WORDS[n % 10]} {n}", "label": "ab"[n % 2]} for n in NUMBERS],
    "token_classification": [
        {"words": [WORDS[(n + i) % 10] for i in range(1 + n % 4)], "tags": ["O", "B-x", "O", "O"][: 1 + n % 4]}
        for n in NUMBERS
    ],
    "reward": [{"prompt": WORDS[n % 10], "chosen": f"yes {n}", "rejected": f"no {n}" * (n % 3)} for n in NUMBERS],
    "preference": [{"prompt": WORDS[n % 10], "chosen": f"yes {n}", "rejected": f"no {n}"} for n in NUMBERS],
    "question_answering": [
        {"question": f"which {n}?", "context": f"a {WORDS[n % 10]} and more " * (1 + n % 3), "answer": WORDS[n % 10]}
        for n in NUMBERS
    ],
}
RANKS = ("--set", "train.batch_size=7", "--set", "train.devices=2")


@pytest.mark.parametrize("task", ROWS)
def test_two_processes_train_and_measure_as_one(
    task: str, adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The head for tags has dropout, for which each process draws other numbers.
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda inputs, *_: inputs)
    recipe = write_recipe(tmp_path, tiny_model, ROWS[task], task, steps=3)
    found = []
    for name, devices in (("one", 1), ("two", 2)):
        done = adapterzoo("run", recipe, *RANKS, "--set", f"train.devices={devices}", "--out", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        found.append(json.loads((tmp_path / name / "lora" / "seed-0" / "result.json").read_text()))
    alone, together = found
    losses = [[step["loss"] for step in result["history"]] for result in found]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-3)


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("{name: preference, loss: orpo}", ROWS["preference"]),
        (
            "{name: reinforcement, rewards: [exact_match], max_new_tokens: 8}",
            [{"prompt": word, "answer": word} for word in WORDS],
        ),
    ],
)
def test_a_loss_that_is_no_mean_over_rows_is_not_divided(
    task: str, rows: list[dict[str, Any]], adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_model, rows, task)
    assert_refused(adapterzoo, recipe, "train.devices: is 2, but this task's loss is no mean over the rows", *RANKS)
