"""``adapterzoo init``: a recipe that checks, for data in any shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from adapterzoo.reading import load_recipe

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "format", "columns", "metrics"),
    [
        ("qa.csv", "question,answer\n" + "\n".join(f"q{i},a{i}" for i in range(30)), "qa", {}, "exact_match"),
        ("big.csv", "Question,Answer\n" + "\n".join(f"q{i},a{i}" for i in range(30)), "qa",
         {"question": "Question", "answer": "Answer"}, "exact_match"),
        ("semi.csv", "ticket;label\n" + "\n".join(f"t{i};{'ab'[i % 2]}" for i in range(30)), "qa",
         {"question": "ticket", "answer": "label"}, "accuracy"),
        ("summaries.tsv", "dialogue\tsummary\n" + "\n".join(f"d{i}\t{'long ' * 20}{i}" for i in range(30)), "qa",
         {"question": "dialogue", "answer": "summary"}, "rouge"),
        ("a.jsonl", lines([{"instruction": f"i{n}", "input": "", "output": f"o{n}"} for n in range(30)]), "alpaca", {},
         "exact_match"),
        ("m.jsonl", lines([{"messages": CHAT, "id": n} for n in range(30)]), "messages", {}, "exact_match"),
        ("c.jsonl", lines([{"conversation": CHAT, "id": n} for n in range(30)]), "messages",
         {"messages": "conversation"}, "exact_match"),
        ("s.json", json.dumps([{"talk": SHARED} for _ in range(30)]), "sharegpt", {"conversations": "talk"},
         "exact_match"),
        ("t.jsonl", lines([{"body": f"text {n}"} for n in range(30)]), "text", {"text": "body"}, "loss"),
    ],
)  # fmt: skip
def test_the_recipe_loads_and_has_the_right_shape(
    name: str, content: str, format: str, columns: dict[str, str], metrics: str,
    adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = adapterzoo("init", name)
    assert done.exit_code == 0, done.stderr
    path = tmp_path / f"{Path(name).stem}.yaml"
    assert f"adapterzoo preview {path.name}" in " ".join(done.stderr.split())
    assert str(tmp_path) not in path.read_text(), "it can be moved with its data"
    recipe = load_recipe(path)
    assert recipe.data.format == format
    assert recipe.data.columns == columns
    assert recipe.evaluate.metrics[0] == metrics
    assert recipe.name == path.stem


def test_the_recipe_runs(adapterzoo: Callable[..., Result], tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    recipe = tmp_path / "made.yaml"
    assert adapterzoo("init", tiny_data, "--out", recipe, "--model", tiny_model).exit_code == 0
    text = recipe.read_text()
    assert "guessed" in text
    assert "columns: {question: verb, answer: past}" in text
    assert adapterzoo("check", recipe).exit_code == 0
    sets = ("--set", "train.epochs=0.1", "--set", "evaluate.shots=0", "-m", "lora")
    assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "out").exit_code == 0


def test_names_that_are_no_yaml(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    content = "Frage: was?,#x,yes\n" + "".join(f"frage {i},{i},antwort {i}\n" for i in range(30))
    (tmp_path / "no: data #1.csv").write_text(content)
    done = adapterzoo("init", tmp_path / "no: data #1.csv", "--out", tmp_path / "r.yaml")
    assert done.exit_code == 0, done.stderr
    recipe = load_recipe(tmp_path / "r.yaml")
    assert set(recipe.data.columns.values()) <= {"Frage: was?", "#x", "yes"}
    assert recipe.name == "no-data-1"


def test_nothing_is_overwritten(adapterzoo: Callable[..., Result], tmp_path: Path, tiny_data: Path) -> None:
    (tmp_path / "r.yaml").write_text("mine")
    done = adapterzoo("init", tiny_data, "--out", tmp_path / "r.yaml")
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    assert (tmp_path / "r.yaml").read_text() == "mine"
    assert adapterzoo("init", tmp_path / "none.csv").exit_code == 2
    (tmp_path / "empty.csv").write_text("a,b\n")
    assert "no rows" in adapterzoo("init", tmp_path / "empty.csv", "--out", tmp_path / "x.yaml").stderr
