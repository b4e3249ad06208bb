"""Question answering: answers are found and measured as a plain script does it, and other data is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import families
import pytest
import torch
from cells import Bench
from click.testing import Result
from task_runs import WORDS, assert_refused, assert_trains_like_a_plain_script, write_recipe
from transformers import AutoTokenizer

from adapterzoo.data_row import DataRow, Turn
from adapterzoo.metrics.registry import metrics
from adapterzoo.recipe.schema import DataSection, EvaluateSection
from adapterzoo.tasks.contract import EncodeInput
from adapterzoo.tasks.examples import Examples
from adapterzoo.tasks.registry import tasks

MODELS = ("tiny_model", "tiny_bert")


def questions() -> list[dict[str, Any]]:
    """Return rows in SQuAD's form, in which the answer is the word between stars."""
    rows = []
    for n in range(60):
        context = f"{WORDS[n % 7]} and *{WORDS[n // 6]}* {n}"
        answers = {"text": [f"*{WORDS[n // 6]}*"], "answer_start": [context.index("*")]}
        rows.append({"question": "Which?", "context": context, "answers": answers})
    return rows


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def write(
        rows: list[dict[str, Any]], model: str = "tiny_model", steps: int = 6, task: str = "question_answering"
    ) -> Path:
        folder = request.getfixturevalue(model)
        return write_recipe(tmp_path, folder, rows, task, "lora", steps, 80, ", learning_rate: 1.0e-2")

    return write


def row(question: str, context: str, *answers: str) -> DataRow:
    found = tuple((answer, context.index(answer)) for answer in answers)
    turns = (Turn("user", question), Turn("user", context), Turn("assistant", "\n".join(answers)))
    return DataRow(turns, more=(("answers", found),))


def encoded(tokenizer: Any, rows: list[DataRow], max_length: int = 64, **options: int) -> tuple[Examples, list[str]]:
    """Return the examples of rows that are both trained and tested on, and what is said about them."""
    task, said = tasks()["question_answering"], []
    splits = SimpleNamespace(train=rows, validation=[], test=rows, fingerprint="")
    data = DataSection(source="rows.jsonl", max_length=max_length)
    return task.encode(EncodeInput(tokenizer, splits, task.options(**options), data, said.append)), said


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_found(
    model: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    done = adapterzoo("run", recipe(questions(), model, steps=20), "--out", tmp_path / "o", "--jobs", "0")
    assert done.exit_code == 0, done.output
    shown = json.loads(adapterzoo("compare", tmp_path / "o", "--format", "json").stdout)
    rows = {found["label"]: found for found in shown["rows"]}
    assert rows.keys() == {"lora", "head-only"}, "no row of a base with a random head"
    assert rows["lora"]["metrics"].keys() == {"squad_em", "squad_f1", "test_loss"}
    assert rows["lora"]["metrics"]["squad_em"] > 0.6
    records = [json.loads(line) for line in (tmp_path / "o" / "lora" / "seed-0" / "predictions.jsonl").open()]
    assert all(record["tokens"] == 1 and record["loss"] > 0 for record in records)


@pytest.mark.parametrize("model", MODELS)
def test_losses_and_adapter_are_those_of_a_plain_script(
    model: str, recipe: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModelForQuestionAnswering

    # Without the mapping, transformers leaves all weights of a Llama that answers questions random.
    mapping = {r"^model\.": "transformer."} if model == "tiny_model" else None
    plain = AutoModelForQuestionAnswering.from_pretrained(request.getfixturevalue(model), key_mapping=mapping)
    assert_trains_like_a_plain_script(Bench(recipe(questions(), model)), plain, "qa_outputs", tmp_path)


@pytest.mark.parametrize("tokenizer", ["chatml", "llama3", "gemma", "tiny_model", "tiny_bert"])
def test_the_tokens_of_the_answer_are_marked(tokenizer: str, request: pytest.FixtureRequest) -> None:
    if tokenizer in families.FAMILIES:
        used = families.tokenizer(tokenizer)
    else:
        used = AutoTokenizer.from_pretrained(request.getfixturevalue(tokenizer))
    examples, said = encoded(used, [row("Who is it?", "xx qq zz (on) the mat", "qq zz", "qq")])
    (example,) = examples.test
    assert said == []
    ids, marked = example.tokens
    text = used.decode([token for token, mark in zip(ids, marked, strict=True) if mark])
    assert text.replace(" ##", "").strip() == "qq zz"
    # The question is in front, with something between it and the context, and the start token is not lost.
    head = used.decode(ids[: example.learned.begin])
    assert "is it" in head.replace(" ##", "")
    assert head.rstrip(" ") != head.rstrip(" ?") or head.endswith(("\n", "[SEP]"))
    assert ids[0] == used("a")["input_ids"][0] or used("a")["input_ids"][0] not in used.all_special_ids


def test_a_long_context_is_read_in_windows(tiny_bert: Path) -> None:
    """Each window is as long as allowed; all together show the whole context; the learned one shows the answer."""
    used = AutoTokenizer.from_pretrained(tiny_bert)
    context = " ".join(WORDS)
    rows = [row("Q", context, "horse"), row("Q", f"{context} .", "table")]
    examples, said = encoded(used, rows, max_length=24, stride=8)
    assert [" ".join(line.split()) for line in said] == [
        "data: 2 of 2 contexts of train do not fit into max_length = 24 tokens: a window with the answer is learned",
        "data: 2 of 2 contexts of test do not fit into max_length = 24 tokens: each is read in several windows",
    ]
    for example in examples.test:
        assert all(window.size <= 24 for window in example.windows)
        shown = [offset for window in example.windows for offset in window.offsets]
        assert set(shown) == set(
            used(example.row.turns[1].content, return_offsets_mapping=True)["offset_mapping"][1:-1]
        )
        assert set(example.windows[0].offsets) & set(example.windows[1].offsets)
        assert example.learned in example.windows
    train, test = examples.train[0], examples.test[0]
    assert (train.learned, train.windows) == (test.learned, [])
    first, last = test.learned.target
    assert used.decode(test.learned.ids[first : last + 1]).replace(" ##", "") == "horse"


def test_windows_are_chosen_without_regard_to_the_answer(tiny_bert: Path) -> None:
    """An answer that no window shows whole has a window of its own for the loss, which is not searched."""
    used = AutoTokenizer.from_pretrained(tiny_bert)
    context = " ".join(WORDS)
    examples, _ = encoded(used, [row("Q", context, "stone cloud"), row("Q", context, "bread")], 20, stride=0)
    first, second = examples.test
    assert first.learned not in first.windows
    assert [window.ids for window in first.windows] == [window.ids for window in second.windows]
    assert all(window.target is None for window in first.windows)


class Fake(torch.nn.Module):
    """A model that finds the given tokens: token id -> scores as the first and as the last token of an answer."""

    def __init__(self, scores: dict[int, tuple[float, float]]) -> None:
        super().__init__()
        self.scores, self.weight = scores, torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        found = torch.tensor([[self.scores.get(token, (0.0, 0.0)) for token in ids] for ids in input_ids.tolist()])
        return SimpleNamespace(start_logits=found[..., 0], end_logits=found[..., 1])


def test_the_best_answer_over_all_windows_is_given(tiny_bert: Path) -> None:
    used = AutoTokenizer.from_pretrained(tiny_bert)
    text = "a b c d e f g h i j k l m n o p"
    ids = {letter: used(letter)["input_ids"][1] for letter in text.split()}
    settings = EvaluateSection(metrics=["squad_em", "loss"])

    def answer(scores: dict[str, tuple[float, float]], without: bool = False, **options: int) -> str:
        rows = [row("Q", text, "m n"), *([row("Q", "x")] if without else [])]
        examples, _ = encoded(used, rows, 12, stride=4, **options)
        return (
            examples.evaluate(Fake({ids.get(k, 2): v for k, v in scores.items()}), settings).predictions[0].prediction
        )

    assert answer({"m": (5.0, 0.0), "n": (0.0, 5.0)}) == "m n"
    # A last token before the first one is no answer, nor is an answer that is too long.
    assert answer({"n": (5.0, 0.0), "m": (0.0, 4.0), "o": (0.0, 1.0)}) == "n o"
    assert answer({"m": (5.0, 0.0), "o": (0.0, 3.0), "n": (0.0, 1.0)}, max_answer_length=2) == "m n"
    # The first token stands for no answer, if some training question has none.
    assert answer({"[CLS]": (9.0, 9.0), "m": (5.0, 0.0), "n": (0.0, 5.0)}) == "m n"
    assert answer({"[CLS]": (9.0, 9.0), "m": (5.0, 0.0), "n": (0.0, 5.0)}, without=True) == ""
    assert answer({"[CLS]": (4.0, 4.0), "m": (5.0, 0.0), "n": (0.0, 5.0)}, without=True) == "m n"


def test_a_measured_loss_does_not_depend_on_the_batch(tiny_bert: Path) -> None:
    from transformers import AutoModelForQuestionAnswering

    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_bert)
    rows = [row("Which?", f"{'x ' * n}and {WORDS[n]}", WORDS[n]) for n in range(8)]
    examples, _ = encoded(AutoTokenizer.from_pretrained(tiny_bert), rows)
    losses = [
        examples.evaluate(model, EvaluateSection(metrics=["loss"], batch_size=size)).metrics["test_loss"]
        for size in (1, 8)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_llama_has_its_own_weights_and_not_random_ones(tiny_model: Path) -> None:
    """The model class for questions calls the base model otherwise than its checkpoint does."""
    from transformers import AutoModelForCausalLM

    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    examples, _ = encoded(AutoTokenizer.from_pretrained(tiny_model), [row("Q", "x y", "y")])
    section = ModelSection(name=str(tiny_model), dtype="float32")
    model = base.load(section, str(tiny_model), "none", 64, examples.form).get_model()
    wanted = AutoModelForCausalLM.from_pretrained(tiny_model).model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.transformer.state_dict().items())


def test_an_answer_without_a_start_and_questions_without_answers(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    rows = [{"question": f"Q{n}", "context": f" {n} x, x", "answer": "x" if n % 2 else ""} for n in range(20)]
    done = adapterzoo("preview", recipe(rows))
    assert done.exit_code == 0, done.output
    assert "training questions have no answer: they mark Q" in " ".join(done.output.split())
    assert adapterzoo("check", recipe([{**r, "start": "3" if r["answer"] else None} for r in rows])).exit_code == 2
    rows = [{**r, "start": (r["context"].index("x") if r["answer"] else None)} for r in rows]
    assert adapterzoo("check", recipe(rows)).exit_code == 0
    listed = [
        {**r, "answers": [{"text": r.pop("answer"), "answer_start": r.pop("start")}]} for r in rows if r["answer"]
    ]
    done = adapterzoo("check", recipe(listed))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"answers": {"text": ["cat"], "answer_start": [0]}}, ":1: its answer 'cat' is not in its context at 0. An"),
        ({"answers": {"text": ["*"], "answer_start": [0]}}, "is not in its context at 0. It is at 10: correct the"),
        ({"answers": {"text": ["cat"]}}, "its answer 'cat' is not in its context. An answer must be a part of its"),
        ({"answers": {"text": ["*"], "answer_start": []}}, "it has 1 answers, and not as many starts"),
        ({"answers": {"text": ["*"], "answer_start": ["?"]}}, "the start of its answer, '?', is not a number"),
        ({"answers": {"text": [" "], "answer_start": [1]}}, "one of its answers is empty. A question without"),
        ({"answers": {"answer": "table"}}, "without a list under 'text'. Like {\"text\": [\"in 1889\"]"),
        ({"question": "Which? " * 20}, "leaves 0 of 80 tokens for the context, and its answer has 7. Raise"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(
    change: dict[str, Any], wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    rows = questions()
    rows[0] |= change
    assert_refused(adapterzoo, recipe(rows), wanted)


@pytest.mark.parametrize(
    ("change", "metric", "wanted"),
    [
        ({"answers": {"text": [], "answer_start": []}}, "loss", "test.jsonl:1: its question has no answer, and every"),
        ({}, "accuracy", "'accuracy' says nothing about answers from a context. Choose from: squad_em"),
        ({"answers": {"text": ["table", "and"]}}, "rouge", "'rouge' compares with one reference, and some rows have"),
    ],
)
def test_test_rows_and_metrics_that_do_not_fit_are_refused(
    change: dict[str, Any], metric: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    path = recipe(questions()[1:])
    (path.parent / "test.jsonl").write_text(json.dumps(questions()[0] | change) + "\n", encoding="utf-8")
    split = "data.split={train: rows.jsonl, validation: 0, test: test.jsonl}"
    done = adapterzoo(
        "check", path, "--set", split, "--set", "data.source=null", "--set", f"evaluate.metrics=[{metric}]"
    )
    assert done.exit_code == 2
    assert wanted in " ".join(done.output.split()), done.output


def test_data_without_any_answer_and_wrong_options_are_refused(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    rows = [{**found, "answers": {"text": [], "answer_start": []}} for found in questions()]
    assert "no training question has an answer" in " ".join(adapterzoo("check", recipe(rows)).output.split())
    done = adapterzoo("check", recipe(questions(), task="{name: question_answering, max_answer_length: 0}"))
    assert done.exit_code == 2
    assert "max_answer_length" in done.output


@pytest.mark.parametrize(
    ("reference", "answer", "exact", "f1"),
    [
        ("The Eiffel Tower", "eiffel tower.", True, 1.0),
        ("Paris\nthe city of Paris", "city Paris", False, 0.8),
        ("in 1889", "1889", False, 2 / 3),
        ("Paris", "", False, 0.0),
        ("", "", True, 1.0),
        ("", "Paris", False, 0.0),
        ("the", "", True, 1.0),  # SQuAD's script leaves out references of which nothing is left
        ("go go", "go", False, 2 / 3),
    ],
)
def test_squad_metrics(reference: str, answer: str, exact: bool, f1: float) -> None:
    assert metrics()["squad_em"].score(reference, answer) is exact
    assert metrics()["squad_f1"].score(reference, answer) == pytest.approx(f1)
