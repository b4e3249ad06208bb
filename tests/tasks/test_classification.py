"""Classification: labels are learned and measured as a plain script does it, and data that does not fit is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench
from click.testing import Result
from safetensors.torch import load_file
from task_runs import WORDS, assert_refused, assert_trains_like_a_plain_script, results, write_recipe


def texts(label: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{"text": f"{('good', 'bad')[n % 2]} {WORDS[n // 2 % 10]} {n}", "label": label(n)} for n in range(60)]


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[dict[str, Any]], methods: str = "lora", task: str = "classification", steps: int = 6) -> Path:
        return write_recipe(tmp_path, tiny_model, rows, task, methods, steps)

    return write


def test_a_label_is_learned_and_only_the_head_is_a_row_too(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    path = recipe(texts(lambda n: ("positive", "negative")[n % 2]), "lora, ia3, lora-scratch, full", steps=40)
    done = adapterzoo("run", path, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    rows = results(tmp_path / "o", adapterzoo)
    assert rows.keys() == {"lora", "ia3", "lora-scratch", "full", "head-only"}, "no row of a base with a random head"
    assert rows["lora"]["metrics"]["accuracy"] == 1.0
    assert rows["head-only"]["trainable_params"] == 0
    totals = {label: row["total_params"] - row["trainable_params"] for label, row in rows.items() if label != "full"}
    assert len({*totals.values()}) == 1, "PEFT keeps the head that it copies, which is no part of the trained model"
    records = [json.loads(line) for line in (tmp_path / "o" / "lora" / "seed-0" / "predictions.jsonl").open()]
    assert {record["prediction"] for record in records} == {"positive", "negative"}
    assert all(record["tokens"] == 1 and record["loss"] > 0 for record in records)


def test_a_head_begins_the_same_for_every_method_and_is_saved(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    """With a learning rate of almost nothing, every method ends with the head that it began with."""
    methods = ", ".join(f"{{name: {name}, learning_rate: 1.0e-12}}" for name in ("lora", "ia3", "full", "lora-scratch"))
    path = recipe(texts(lambda n: n % 3), methods)
    assert adapterzoo("run", path, "--out", tmp_path / "o", "--set", "seeds=[0, 1]").exit_code == 0
    heads: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for seed, found in heads.items():
        for label in ("lora", "ia3", "full", "lora-scratch"):
            folder = tmp_path / "o" / label / f"seed-{seed}" / "adapter"
            tensors = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
            (name,) = (name for name in tensors if "score" in name)
            found.append(tensors[name])
    for found in heads.values():
        for other in found[1:]:
            assert torch.allclose(found[0], other, atol=1e-9)
    assert not torch.allclose(heads[0][0], heads[1][0])


def test_several_labels_and_numbers(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    several = texts(lambda n: [name for name, has in (("good", n % 2 == 0), ("early", n < 30)) if has])
    assert adapterzoo("run", recipe(several, steps=60), "--out", tmp_path / "several").exit_code == 0
    row = results(tmp_path / "several", adapterzoo)["lora"]
    assert {"label_f1", "exact_match", "test_loss"} <= row["metrics"].keys()
    assert row["metrics"]["label_f1"] > 0.5
    numbers = recipe(texts(lambda n: (1.5, -2.5)[n % 2]), task="{name: classification, labels: number}", steps=60)
    done = adapterzoo("run", numbers, "--out", tmp_path / "number")
    assert done.exit_code == 0, done.output
    row = results(tmp_path / "number", adapterzoo)["lora"]
    assert row["metrics"]["spearman"] > 0.5


def test_losses_and_adapter_are_those_of_a_plain_script(
    recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    bench = Bench(recipe(texts(lambda n: ("positive", "negative")[n % 2])))
    pad_id = bench.prepared.encoded.pad_id
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2, pad_token_id=pad_id)
    assert_trains_like_a_plain_script(bench, plain, "score", tmp_path)


def test_a_number_that_is_torchs_sign_for_no_label_is_a_number(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    path = recipe(texts(lambda n: (-100, -40)[n % 2]), task="{name: classification, labels: number}")
    done = adapterzoo("check", path, "--set", "data.split={train: 0.5, validation: 0.25, test: 0.25}")
    assert done.exit_code == 0, done.output
    assert "30 train, 15 validation, 15 test rows" in " ".join(done.output.split()), done.output
    assert "dropped" not in done.output


@pytest.mark.parametrize(
    ("label", "task", "wanted"),
    [
        (lambda n: "same", "classification", "1 different labels"),
        (lambda n: ("Good", "good")[n % 2], "classification", "differ only in case"),
        (lambda n: "rare" if n == 7 else ("a", "b")[n % 2], "classification", "'rare' is in no training row"),
        (lambda n: "x" if n == 3 else n, "{name: classification, labels: number}", "'x' is not a number"),
        (lambda n: "a", "{name: classification, labels: both}", "it can be auto, one, several, number"),
        (lambda n: "3", "{name: classification, labels: number}", "have the same number"),
        (lambda n: n + 0.5, "classification", "set task.labels to number"),
        (lambda n: "a; b", "{name: classification, labels: several}", "no row has a list of labels"),
        (lambda n: ["a;b"], "classification", "has a semicolon"),
        (lambda n: [1, 1], "classification", "is in the list twice"),
        (lambda n: "a", "clasification", "unknown task 'clasification'. Did you mean 'classification'?"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    label: Callable[[int], Any], task: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    rows = [
        {**row, "label": str(row["label"]) if not isinstance(row["label"], list) else row["label"]}
        for row in texts(label)
    ]
    if wanted.startswith("'rare'"):  # put the row into the test split
        sets = ("--set", "data.split={train: rows.jsonl, validation: 0, test: test.jsonl}", "--set", "data.source=null")
        path = recipe([row for row in rows if row["label"] != "rare"], task=task)
        (path.parent / "test.jsonl").write_text(json.dumps({"text": "other", "label": "rare"}) + "\n")
        assert_refused(adapterzoo, path, wanted, *sets)
    else:
        assert_refused(adapterzoo, recipe(rows, task=task), wanted)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("data.system", "Be kind.", "does not use 'system'"),
        ("evaluate.general_text", "shipped", "needs the task of a causal language model"),
        ("evaluate.metrics", "[perplexity]", "has no 'perplexity'"),
        ("evaluate.metrics", "[spearman]", "says nothing about one label"),
        ("evaluate.metrics", "[rouge]", "says nothing about one label"),
        ("data.format", "qa", "'data.format' is 'qa'"),
        ("train.arguments", "{label_smoothing_factor: 0.1}", "changes the model's own loss"),
        ("task", "{name: classification, threshold: 0.7}", "task.threshold: has no effect"),
    ],
)
def test_keys_that_do_not_suit_the_task_are_refused(
    key: str, value: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    assert_refused(adapterzoo, recipe(texts(lambda n: ("a", "b")[n % 2])), wanted, "--set", f"{key}={value}")


@pytest.mark.parametrize("write", [json.dumps, str], ids=["JSON", "Python"])
def test_lists_in_a_csv_file_are_lists(
    write: Callable[[Any], str], recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from adapterzoo.prepare.prepare import prepare
    from adapterzoo.recipe.reading import load_recipe

    labels = [["late", "good"], ["good"], []]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"text {n}", write(labels[n % 3])] for n in range(60))
    encoded: Any = prepare(load_recipe(recipe([]), ["data.source=rows.csv"])).encoded
    assert (encoded.kind, encoded.names) == ("several", ("good", "late"))
    assert {example.row.completion for example in encoded.train} == {"good; late", "good", ""}


def test_an_option_can_be_set_beside_the_name_of_the_task(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("check", recipe(texts(lambda n: n % 7)), "--set", "task.labels=number")
    assert done.exit_code == 0, done.output


def test_head_only_has_no_budget_and_other_tasks_cannot_generate_yet(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    path = recipe(texts(lambda n: ("a", "b")[n % 2]))
    done = adapterzoo("run", path, "--out", tmp_path / "o", "--set", "budget.trainable_params=10k")
    assert done.exit_code == 0, done.output
    assert "head-only: 0" not in done.output
    for command in (("generate", "--prompt", "good"), ("merge", "--to", tmp_path / "m"), ("push", "ada/x")):
        refused = adapterzoo(command[0], tmp_path / "o", "-m", "lora", *command[1:])
        assert refused.exit_code == 2
        assert "task classification, with which generate, merge and push do not work yet" in refused.output
