"""Token classification: tags are learned and measured as a plain script does it, and other data is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import pytest
from cells import Bench
from click.testing import Result
from task_runs import assert_refused, assert_trains_like_a_plain_script, write_recipe
from transformers import AutoTokenizer

from adapterzoo.data_row import DataRow
from adapterzoo.metrics.registry import metrics
from adapterzoo.recipe.schema import DataSection, EvaluateSection
from adapterzoo.tasks.contract import EncodeInput
from adapterzoo.tasks.examples import Examples
from adapterzoo.tasks.registry import tasks

PEOPLE, PLACES = ("Anna", "Ben", "Carl"), ("Perth", "Quito", "Rome")
MODELS = ("tiny_model", "tiny_bert")


def tagged(iob1: bool = False) -> list[dict[str, Any]]:
    """Return rows of words whose tags depend on their first letters and on the words before them."""
    rows = []
    for n in range(60):
        words = [PEOPLE[n % 3], "sees", PLACES[n % 3], "Zoo", "and", PEOPLE[n // 3 % 3], f"x{n}"]
        tags = ["B-PER", "O", "B-LOC", "I-LOC", "O", "B-PER", "O"]
        rows.append({"words": words, "tags": [tag.replace("B-", "I-") for tag in tags] if iob1 else tags})
    return rows


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def write(
        rows: list[dict[str, Any]], model: str = "tiny_model", methods: str = "lora", steps: int = 6,
        max_length: int = 64, rate: float = 1e-2,
    ) -> Path:  # fmt: skip
        more = f", learning_rate: {rate}"
        folder = request.getfixturevalue(model)
        return write_recipe(tmp_path, folder, rows, "token_classification", methods, steps, max_length, more)

    return write


def encoded(tokenizer: Any, rows: list[DataRow], max_length: int = 64) -> tuple[Examples, list[str]]:
    """Return the examples of rows that are both trained and tested on, and what is said about them."""
    task, said = tasks()["token_classification"], []
    splits = SimpleNamespace(train=rows, validation=[], test=rows, fingerprint="")
    data = DataSection(source="rows.jsonl", max_length=max_length)
    return task.encode(EncodeInput(tokenizer, splits, task.options(), data, said.append)), said


@pytest.mark.parametrize("model", MODELS)
def test_tags_are_learned(
    model: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    path = recipe(tagged(), model, steps=20)
    done = adapterzoo("run", path, "--out", tmp_path / "o", "--jobs", "0")
    assert done.exit_code == 0, done.output
    shown = json.loads(adapterzoo("compare", tmp_path / "o", "--format", "json").stdout)
    rows = {row["label"]: row for row in shown["rows"]}
    assert rows.keys() == {"lora", "head-only"}, "no row of a base with a random head"
    assert rows["lora"]["metrics"].keys() == {"entity_f1", "token_accuracy", "test_loss"}
    assert rows["lora"]["metrics"]["entity_f1"] > 0.9
    assert rows["lora"]["metrics"]["token_accuracy"] > 0.95
    records = [json.loads(line) for line in (tmp_path / "o" / "lora" / "seed-0" / "predictions.jsonl").open()]
    for record in records:
        same = [a == b for a, b in zip(record["prediction"].split(), record["reference"].split(), strict=True)]
        assert (record["tokens"], record["right_tokens"]) == (7, sum(same))


@pytest.mark.parametrize("model", MODELS)
def test_losses_and_adapter_are_those_of_a_plain_script(
    model: str, recipe: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModelForTokenClassification

    bench = Bench(recipe(tagged(), model))
    plain = AutoModelForTokenClassification.from_pretrained(request.getfixturevalue(model), num_labels=4)
    assert_trains_like_a_plain_script(bench, plain, "score" if model == "tiny_model" else "classifier", tmp_path)


@pytest.mark.parametrize("tokenizer", ["chatml", "gemma", "tiny_model", "tiny_bert"])
def test_the_first_token_of_each_word_has_its_label(tokenizer: str, request: pytest.FixtureRequest) -> None:
    """The words are tokenized as in a running text, and every tokenizer gives each word its own label."""
    if tokenizer in families.FAMILIES:
        used = families.tokenizer(tokenizer)
    else:
        used = AutoTokenizer.from_pretrained(request.getfixturevalue(tokenizer))
    words = ["the", "answers", "(France)", "Paris.", "12345", "the"]
    row = DataRow.pair(" ".join(words), "O B-A I-A B-C O B-D")
    examples, said = encoded(used, [row])
    (example,) = examples.test
    assert example.ids == used(" ".join(words))["input_ids"]
    assert said == []
    labels = [examples.names[label] for label in example.target if label != -100]
    assert labels == row.completion.split()
    for word, position in zip(words, example.positions, strict=True):
        piece = used.decode([example.ids[position]]).replace("##", "").strip()
        assert piece
        assert word.startswith(piece)


def test_words_that_are_cut_off_are_said_and_count_as_wrong(tiny_bert: Path) -> None:
    from transformers import AutoModelForTokenClassification

    rows = [DataRow.pair("Anna sees it", "B-PER I-PER O"), DataRow.pair("x", "O")]
    examples, said = encoded(AutoTokenizer.from_pretrained(tiny_bert), rows, max_length=8)
    why = "have words that max_length = 8 tokens cuts off, or that the tokenizer drops"
    assert said == [
        f"data: 1 of 2 rows of train {why}: 1 words are not learned",
        f"data: 1 of 2 rows of test {why}: 1 words are tagged O and count as wrong",
    ]
    model = AutoModelForTokenClassification.from_pretrained(tiny_bert, num_labels=3)
    measured = examples.evaluate(model, EvaluateSection(metrics=["token_accuracy", "loss"]))
    first = measured.predictions[0]
    given = first.prediction.split()
    assert given[2] == "O"
    assert (first.likelihood.tokens, first.likelihood.right) == (3, (given[0] == "B-PER") + (given[1] == "I-PER"))
    alone = examples.evaluate(model, EvaluateSection(metrics=["loss"], batch_size=1))
    assert measured.metrics["test_loss"] == pytest.approx(alone.metrics["test_loss"], rel=1e-5)
    assert encoded(examples.tokenizer, rows, max_length=8)[0].collate(examples.train)["labels"].shape == (2, 8)


def test_iob1_and_tags_without_prefixes_are_accepted(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("preview", recipe(tagged(iob1=True)))
    assert done.exit_code == 0, done.output
    assert "3 tags (IOB1): I-LOC, I-PER, O" in done.output
    plain = [{"words": "the dog runs", "tags": f"DET NOUN {('VERB', 'X')[n % 2]}"} for n in range(9)]
    plain = [{**row, "words": f"{row['words']}{n}"} for n, row in enumerate(plain)]
    done = adapterzoo("check", recipe(plain))
    assert done.exit_code == 0, done.output
    assert "4 tags (without prefixes)" in adapterzoo("preview", recipe(plain)).output


def test_names_of_numbered_tags_are_read_from_a_dataset(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    from datasets import ClassLabel, Dataset, Features, List, Value

    numbered = Features(words=List(Value("string")), tags=List(ClassLabel(names=["O", "B-PER", "B-LOC", "I-LOC"])))
    Dataset.from_list(tagged(), features=numbered).save_to_disk(str(tmp_path / "saved"))
    done = adapterzoo("preview", recipe(tagged()), "--set", f"data.source={tmp_path / 'saved'}")
    assert "4 tags (IOB2): B-LOC, B-PER, I-LOC, O" in done.output


@pytest.mark.parametrize(
    ("words", "tags", "wanted"),
    [
        (["Anna", "Lee"], ["B-PER"], "rows.jsonl:1: it has 2 words and 1 tags"),
        (["New York", "is"], ["B-LOC", "O"], "item 1 of its 'words' has white space in it: 'New York'"),
        (["Anna", ""], ["B-PER", "O"], "item 2 of its 'words' is empty"),
        (["Anna", "Lee"], [1, 2], "its tags are numbers. Write their names"),
        (
            ["Anna", "Lee"], ["B-PER", "I-LOC"],
            "the tag of its word 2 ('Lee'), 'I-LOC', follows 'B-PER': in IOB2 it must be 'B-LOC'",
        ),
        (["Anna", "Lee"], ["I-PER", "O"], "'I-PER', is the first: in IOB2 it must be 'B-PER'. Correct it"),
        (["Anna", "Lee"], ["PER", "O"], "like 'B-LOC', begin with B- or I-, and others, like 'PER', do not"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(
    words: list[str], tags: list[Any], wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    assert_refused(adapterzoo, recipe([{"words": words, "tags": tags}, *tagged()]), wanted)


def test_a_double_space_in_a_text_is_refused(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    rows = [{name: " ".join(value) for name, value in row.items()} for row in tagged()]
    assert adapterzoo("check", recipe(rows)).exit_code == 0
    rows[0]["words"] = rows[0]["words"].replace(" ", "  ", 1)
    done = adapterzoo("check", recipe(rows))
    assert "item 2 of its 'words' is empty. Make each an item of its own" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("test_rows", "metric", "wanted"),
    [
        ([{"words": ["Anna"], "tags": ["B-ORG"]}], "entity_f1", "test.jsonl:1: its tag 'B-ORG' is in no training row"),
        ([{"words": ["then"], "tags": ["O"]}], "entity_f1", "no test row has an entity, only O"),
        ([{"words": ["Anna"], "tags": ["B-PER"]}], "macro_f1", "'macro_f1' says nothing about tags of words"),
        ([{"words": ["Anna"], "tags": ["B-PER"]}], "perplexity", "has no 'perplexity'"),
    ],
)
def test_test_rows_and_metrics_that_do_not_fit_are_refused(
    test_rows: list[dict[str, Any]], metric: str, wanted: str, recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result], no_weights: None,
) -> None:  # fmt: skip
    path = recipe(tagged())
    (path.parent / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test_rows), encoding="utf-8")
    split = "data.split={train: rows.jsonl, validation: 0, test: test.jsonl}"
    done = adapterzoo(
        "check", path, "--set", split, "--set", "data.source=null", "--set", f"evaluate.metrics=[{metric}]"
    )
    assert done.exit_code == 2
    assert wanted in " ".join(done.output.split()), done.output


def test_a_single_tag_and_a_tiny_max_length_are_refused(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    rows = [{"words": [f"x{n}"], "tags": ["O"]} for n in range(20)]
    done = adapterzoo("check", recipe(rows))
    assert "the training rows have 1 different tags" in " ".join(done.output.split())
    done = adapterzoo("check", recipe(tagged(), "tiny_bert", max_length=2))
    assert "max_length = 2 leaves nothing to learn" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("reference", "answer", "wanted"),
    [
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", 1.0),
        ("B-PER I-PER O B-LOC", "B-PER O O B-LOC", 0.5),  # the end of one of two entities is wrong
        ("B-PER I-PER O B-LOC", "B-PER I-PER O O", 2 / 3),
        ("B-PER I-PER", "B-LOC I-LOC", 0.0),
        ("I-PER I-PER O", "B-PER I-PER O", 1.0),  # the CoNLL rule reads IOB1 and IOB2
        ("I-PER B-PER", "I-PER I-PER", 0.0),
        ("O O", "O O", 1.0),
        ("O O", "O B-PER", 0.0),
        ("DET NOUN", "DET VERB", 0.5),  # tags without prefixes are entities of one word
        ("NOUN NOUN", "NOUN", 2 / 3),
    ],
)
def test_entity_f1(reference: str, answer: str, wanted: float) -> None:
    assert metrics()["entity_f1"].score(reference, answer) == pytest.approx(wanted)


def test_entity_f1_counts_all_entities_together() -> None:
    references, answers = ["B-A O", "B-A B-A B-A", "O O"], ["B-A O", "O O B-A", "B-A O"]
    # Two of four entities are found, and one entity is false.
    assert metrics()["entity_f1"].total(references, answers) == pytest.approx(2 * 2 / (4 + 3))
