"""Check that ``adapterzoo init`` writes a valid recipe for many kinds of data, and says how sure it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from adapterzoo.errors import UserError
from adapterzoo.recipe.reading import load_recipe

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
def test_the_recipe_loads_and_fits_the_data(
    name: str, content: str, format: str, columns: dict[str, str], metrics: str,
    adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = adapterzoo("init", name)
    assert done.exit_code == 0, done.stderr
    path = tmp_path / f"{Path(name).stem}.yaml"
    assert f"adapterzoo preview {path.name}" in " ".join(done.stderr.split())
    assert str(tmp_path) not in path.read_text(), "the recipe cannot be moved with its data"
    recipe = load_recipe(path)
    assert recipe.data.format == format
    assert recipe.data.columns == columns
    assert recipe.evaluate.metrics[0] == metrics
    assert recipe.name == path.stem


def test_the_recipe_runs(adapterzoo: Callable[..., Result], tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    recipe = tmp_path / "new.yaml"
    assert adapterzoo("init", tiny_data, "--out", recipe, "--model", tiny_model).exit_code == 0
    text = recipe.read_text()
    assert "guessed" in text
    assert "columns: {question: verb, answer: past}" in text
    assert adapterzoo("check", recipe).exit_code == 0
    sets = ("--set", "train.epochs=0.1", "--set", "evaluate.shots=0", "-m", "lora")
    assert adapterzoo("run", recipe, *sets, "--out", tmp_path / "out").exit_code == 0


def test_names_that_need_quotes_in_yaml(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
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
    assert "already exists" in done.stderr
    assert (tmp_path / "r.yaml").read_text() == "mine"
    assert adapterzoo("init", tmp_path / "none.csv").exit_code == 2
    (tmp_path / "empty.csv").write_text("a,b\n")
    assert "no rows" in adapterzoo("init", tmp_path / "empty.csv", "--out", tmp_path / "x.yaml").stderr


LETTER = "The machine stopped after {} washes, and does not start again whatever I press. What can I do now?"
Init = Callable[[str, str], tuple[Result, Path]]


@pytest.fixture
def init(adapterzoo: Callable[..., Result], tmp_path: Path) -> Init:
    """Return a function that runs init on a file, and returns the result of the command and the path of the recipe."""

    def run(name: str, content: str) -> tuple[Result, Path]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return adapterzoo("init", tmp_path / name, "--out", tmp_path / "my.yaml"), tmp_path / "my.yaml"

    return run


def table(header: str, row: Callable[[int], str], rows: int = 40) -> str:
    return "\n".join([header, *map(row, range(rows))]) + "\n"


def line_of(path: Path, start: str) -> int:
    return 1 + next(i for i, line in enumerate(path.read_text().splitlines()) if line.strip().startswith(start))


def assert_stated(done: Result, path: Path, *statements: str) -> None:
    """Assert that each statement is a line of stderr and a comment of the recipe."""
    printed, comments = done.stderr.splitlines(), path.read_text(encoding="utf-8").splitlines()
    for statement in statements:
        assert statement in printed
        assert f"#   {statement}" in comments


def test_clear_column_names_leave_nothing_to_fill_in(init: Init) -> None:
    done, path = init("faq.csv", table("question,answer", lambda i: f"why {i}?,because {i}"))
    assert done.exit_code == 0, done.stderr
    assert_stated(
        done,
        path,
        "format = qa: certain (the columns' names say so)",
        "question = 'question': certain (its name says so)",
        "answer = 'answer': certain (its name says so)",
        "metrics = [exact_match, loss, perplexity]: likely (the answers are short texts, not labels)",
    )
    assert done.stderr.splitlines()[-1] == f"{path} written. Read it, then run: adapterzoo preview {path}"
    assert "???" not in path.read_text() + done.stderr
    assert "not used" not in done.stderr
    assert load_recipe(path).data.columns == {}


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("id", "a{}"),
        ("ticket_id", "a{}"),
        ("rowIdx", "{}"),
        ("index", "{}"),
        ("key", "k{}"),
        ("number", "{}"),
        ("row", "0000000{}-0000-4000-8000-000000000000"),
        ("commit", "{}0ab5c7d9e1f30ab5c7d9e1f3"),
        ("case", "INC-000{}"),
    ],
)
def test_identifiers_are_neither_question_nor_answer(init: Init, column: str, cell: str) -> None:
    done, path = init("t.csv", table(f"{column},verb,past", lambda i: f"{cell.format(i)},walk {i},walked {i}", 9))
    assert load_recipe(path).data.columns == {"question": "verb", "answer": "past"}
    assert f"not used: '{column}' (" in done.stderr
    assert "answer = 'past': a guess (only because it comes after 'verb')" in done.stderr


def test_one_column_of_text_beside_identifiers_is_plain_text(init: Init) -> None:
    done, path = init("t.csv", table("id,story", lambda i: f"{i},{LETTER.format(i).replace(',', '')}"))
    recipe = load_recipe(path)
    assert (recipe.data.format, recipe.data.columns) == ("text", {"text": "story"})
    assert_stated(
        done, path, "format = text: likely (there is one column of text)", "not used: 'id' (named like an identifier)"
    )
    path.unlink()
    done, path = init("u.csv", table("sum,code", lambda i: f"what is {i} and {i},{2 * i}"))
    assert "a guess (there is one column of text, but 'code' may be an answer)" in done.stderr
    path.unlink()
    done, _ = init("v.csv", table("id,number", lambda i: f"a{i},{i}"))
    assert done.exit_code == 2
    assert "v.csv: has no column of text (its columns: id, number). If init is wrong, write a" in done.stderr


@pytest.mark.parametrize("label", ["label", "mood", "sentiments"])
def test_text_beside_labels_is_a_question_with_an_answer(init: Init, label: str) -> None:
    done, path = init(
        "t.csv", table(f"text,url,{label}", lambda i: f"film {i} was,http://x/{i},{('good', 'bad')[i % 2]}")
    )
    recipe = load_recipe(path)
    assert (recipe.data.format, recipe.data.columns) == ("qa", {"question": "text", "answer": label})
    assert recipe.evaluate.metrics == ["accuracy", "macro_f1", "loss"]
    assert_stated(
        done,
        path,
        "question = 'text': certain (its name says so)",
        "not used: 'url' (links)",
        "metrics = [accuracy, macro_f1, loss]: likely (the answers are labels: 'bad', 'good')",
    )


def test_text_without_an_answer_is_plain_text(init: Init) -> None:
    done, path = init("t.csv", table("url,title,text", lambda i: f"http://x/{i},Title {i},film {i} was"))
    assert load_recipe(path).data.format == "text"
    assert_stated(done, path, "not used: 'url' (links), 'title'", "text = 'text': certain (its name says so)")


@pytest.mark.parametrize(
    ("first", "row", "why"),
    [
        ("What is the capital of France?,Paris", "What is {}?,{}", "'What is the capital of France?' is a sentence"),
        ("the good old film,good", "film {},good", "'good' is also in its column, 20 times"),
        ("great film,4.5", "film {},3.{}", "'4.5' is a number"),
        ("2024-05-01,great film", "2024-06-1{},film {}", "'2024-05-01' is a date"),
        (",great film", "ant {},film {}", "one of its cells is empty"),
        ("法国的首都是哪里？,巴黎", "{} 是哪里？,城市 {}", "'法国的首都是哪里？' is a sentence"),
    ],
)
def test_a_row_is_not_taken_for_column_names(init: Init, first: str, row: str, why: str) -> None:
    """Refuse a file without a header."""
    ends = ("good", "bad") if row.endswith("good") else ("good", "good")
    done, path = init("t.csv", table(first, lambda i: row.replace("good", ends[i % 2]).format(i % 10, i % 10)))
    assert done.exit_code == 2
    assert f"t.csv:1: this line looks like a row, not like column names: {why}." in done.stderr
    assert "Put a line of column names above it, such as question,answer." in done.stderr
    assert not path.exists()


def test_a_tsv_file_without_a_header_is_refused(init: Init) -> None:
    done, _ = init("t.tsv", table("7\thello you\thallo du", lambda i: f"{i}\thello {i}\thallo {i}"))
    assert done.exit_code == 2
    assert "t.tsv:1: this line looks like a row, not like column names: '7'" in done.stderr


@pytest.mark.parametrize(
    "header",
    [
        "question,answer", "Frage: was?,Antwort", "#x,yes", "Q,A", "2023 price,2024 price", "verb,past", "0,1", ",text",
        "prompt (English),reply (English)", "text,label", "FinalQuestion,final_answer", "Wie?,Warum?", "in/en,in/de",
    ],
)  # fmt: skip
def test_ordinary_headers_are_accepted(init: Init, header: str) -> None:
    done, path = init("t.csv", table(header, lambda i: f"{i},Does the film number {i} please you?"))
    assert done.exit_code == 0, done.stderr
    assert "line 1" not in done.stderr
    load_recipe(path)


def test_the_user_fills_in_columns_if_the_header_is_in_doubt(init: Init) -> None:
    """A survey, for example, has whole questions as column names."""
    content = table("Who are you?,How satisfied are you with us?", lambda i: f"person {i},{('very', 'not')[i % 2]}")
    done, path = init("t.csv", content)
    assert done.exit_code == 0, done.stderr
    assert "question and answer: not known: fill in data.columns.question and data.columns.answer" in done.stderr
    assert "'Who are you?' is a sentence: if line 1 is a row, put a line of column names above it" in done.stderr
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert f"{path}:{line_of(path, 'answer:')}: 'data.columns.answer' is not filled in yet." in str(caught.value)


@pytest.mark.parametrize(
    "cell",
    [
        lambda i: {"messages": [{"role": "user", "content": LETTER}, {"role": "assistant", "content": "ab"[i % 2]}]},
        lambda i: {"talk": [{"from": "human", "value": LETTER}, {"from": "gpt", "value": "ab"[i % 2]}]},
    ],
)
def test_labels_in_conversations_are_found(init: Init, cell: Callable[[int], dict[str, Any]]) -> None:
    done, path = init("t.jsonl", lines([cell(i) for i in range(40)]))
    assert load_recipe(path).evaluate.metrics == ["accuracy", "macro_f1", "loss"]
    assert_stated(done, path, "metrics = [accuracy, macro_f1, loss]: likely (the answers are labels: 'a', 'b')")


def test_the_user_chooses_between_columns_with_conversations(init: Init) -> None:
    done, path = init("t.jsonl", lines([{"chosen": CHAT, "rejected": CHAT} for _ in range(9)]))
    assert "messages: not known: fill in data.columns.messages" in done.stderr
    assert "messages: ???" in path.read_text()


def test_two_long_sentences_are_not_labels(init: Init) -> None:
    answers = ("The customer got a new machine and was content in the end.", "Nothing could be done for this customer.")
    done, path = init("t.csv", table("question,answer", lambda i: f"{i} washes,{answers[i % 2]}"))
    assert load_recipe(path).evaluate.metrics[0] == "exact_match"
    assert "labels:" not in done.stderr


def test_a_column_with_labels_is_the_answer(init: Init) -> None:
    done, path = init(
        "t.csv", table("id,letter,team", lambda i: f'{i},"{LETTER.format(i)}",{("sales", "repair")[i % 2]}')
    )
    assert load_recipe(path).data.columns == {"question": "letter", "answer": "team"}
    assert_stated(
        done,
        path,
        "question = 'letter': likely (it is the only other column of text)",
        "answer = 'team': likely (it holds labels: 'repair', 'sales')",
        "not used: 'id' (named like an identifier)",
    )


def test_the_user_chooses_between_labels_and_short_texts(init: Init) -> None:
    """The labels may be the answer, or name the kind of a row."""
    done, path = init(
        "t.csv", table("verb,past,kind", lambda i: f"walk {i},walked {i},{('regular', 'irregular')[i % 2]}")
    )
    assert "question and answer: not known: fill in data.columns.question and data.columns.answer" in done.stderr
    assert "metrics: not known: fill in evaluate.metrics (it depends on the answers)" in done.stderr
    assert path.read_text().count("???") == 3


def test_an_error_asks_for_what_is_not_known(init: Init, adapterzoo: Callable[..., Result]) -> None:
    done, path = init("t.csv", table("premise,claim,label", lambda i: f"one {i},two {i},{('yes', 'no')[i % 2]}"))
    assert done.exit_code == 0
    reason = "(neither names nor values show it; it can be 'premise', 'claim')"
    assert_stated(done, path, f"question: not known: fill in data.columns.question {reason}")
    last = f"{path} written. First fill in data.columns.question (now ???), then run: adapterzoo preview {path}"
    assert done.stderr.splitlines()[-1] == last
    assert "# fill in one of: premise, claim" in path.read_text()
    checked = adapterzoo("check", path)
    assert checked.exit_code == 2
    assert checked.stderr.splitlines() == [
        f"error: {path}:{line_of(path, 'question:')}: 'data.columns.question' is not filled in yet. "
        "Replace ??? by the name of a column of your data."
    ]
    path.write_text(path.read_text().replace("???", "claim"))
    assert load_recipe(path).data.columns == {"question": "claim", "answer": "label"}


def test_the_user_chooses_between_three_similar_columns(init: Init) -> None:
    done, path = init("t.csv", table("first,second,third", lambda i: f"a {i},b {i},c {i}"))
    assert "question and answer: not known: fill in data.columns.question and data.columns.answer" in done.stderr
    assert path.read_text().count("# fill in one of: first, second, third") == 2
    reason = "(all columns that may be the answer hold short answers)"
    assert_stated(done, path, f"metrics = [exact_match, loss, perplexity]: likely {reason}")


def test_an_answer_that_is_not_text_is_not_replaced(init: Init) -> None:
    """SQuAD has such answers."""
    rows = [{"context": f"film {i}", "question": f"why {i}?", "answers": {"text": ["x"]}} for i in range(40)]
    done, path = init("t.jsonl", lines(rows))
    reason = "('answers' is named like the answer, but holds no text"
    assert f"answer: not known: fill in data.columns.answer {reason}" in done.stderr
    assert "answer: ???" in path.read_text()


def test_the_user_chooses_between_several_formats(init: Init) -> None:
    rows = [{"prompt": f"p{i}", "completion": f"c{i}", "question": f"q{i}", "answer": LETTER} for i in range(40)]
    done, path = init("t.jsonl", lines(rows))
    assert "format: not known: fill in data.format (the columns fit prompt_completion and qa)" in done.stderr
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert [str(problem).partition(": ")[2] for problem in caught.value.problems] == [
        "'data.format' is not filled in yet. Replace ??? by a value.",
        "'evaluate.metrics' is not filled in yet. Replace ??? by a value.",
    ]


def test_column_names_with_control_characters(init: Init) -> None:
    done, path = init("t.csv", table('"q\x1b[31m\u202e","c\x85d",e', lambda i: f"a {i},b {i},{i}", 9))
    assert "\x1b" not in done.stderr
    assert load_recipe(path).data.columns == {"question": "q\x1b[31m\u202e", "answer": "c\x85d"}


UNFILLED = """\
name: open
model:
  name: ???
data:
  source: ???
  columns:
    queston: past
    answer: ???
  split: {train: "???", test: 0.1}
train:
  batch_size: ???
evaluate:
  metrics:
    - los
    - ???
  general_text: ???
tune:
  r: {values: [4, "???"]}
methods:
  - ???
  - {name: "???", r: 8}
  - {name: lora, label: "???"}
  - {name: lora, label: "???"}
  - {name: lora, label: big, lora_alpha: "???", rr: 8}
seedz: [1]
"""


def test_every_unfilled_key_is_reported_once_beside_all_other_problems(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(UNFILLED)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    problems = [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]
    unfilled = [problem.partition("' is not filled in yet. Replace ???")[0] for problem in problems if "???" in problem]
    assert unfilled == [
        "3: 'model.name", "5: 'data.source", "8: 'data.columns.answer", "9: 'data.split.train",
        "11: 'train.batch_size", "15: 'evaluate.metrics.1", "16: 'evaluate.general_text", "18: 'tune.r.values.1",
        "20: 'methods.0", "21: 'methods.1.name", "22: 'methods.2.label", "23: 'methods.3.label",
        "24: 'methods.4.lora_alpha",
    ]  # fmt: skip
    assert sorted(problem.partition(".")[0] for problem in problems if "???" not in problem) == [
        "14: unknown metric 'los'",
        "24: unknown key 'rr'",
        "25: unknown key 'seedz'",
        "7: 'data",
    ]


def test_a_key_can_be_filled_in_on_the_command_line(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe("lora", columns='{question: verb, answer: "???"}')
    assert load_recipe(path, ["data.columns.answer=past"]).data.columns["answer"] == "past"
    with pytest.raises(UserError, match=r"--set train.steps=\?\?\?: 'train.steps' is not filled in yet"):
        load_recipe(path, ["data.columns.answer=past", "train.steps=???"])
