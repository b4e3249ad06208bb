"""Check the usual mistakes in data: each is reported with its file, its row and a hint, and the exit code is 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from refusals import refused

GOOD = "question,answer\n" + "".join(f"q{n},a{n}\n" for n in range(30))

pytestmark = pytest.mark.usefixtures("no_weights")


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def lines(*rows: Any) -> str:
    good = [chat(("user", f"q{n}"), ("assistant", f"a{n}")) for n in range(30)]
    return "".join(json.dumps(row) + "\n" for row in [*rows, *good])


FILES: dict[str, str | bytes] = {
    "good.csv": GOOD,
    "wrong.csv": GOOD.replace("answer", "anwser"),
    "semicolon.csv": GOOD.replace(",", ";"),
    "latin.csv": GOOD.encode() + "ä,b\n".encode("latin-1"),
    "wide.csv": GOOD + "yes, we do,a\n",
    "twice.csv": GOOD.replace("question,answer", "answer,answer"),
    "empty.csv": "",
    "header.csv": "question,answer\n",
    "blank.csv": "question,answer\nq,\nq,NaN\n".replace("NaN", " "),
    "other.csv": GOOD.replace("question,answer", "question,answer,source"),
    "quote.csv": GOOD + '"never closed,a\n',
    "few.csv": "question,answer\na,b\nc,d\n",
    "nan.json": json.dumps([{"question": float("nan"), "answer": "x"}, {"question": "x", "answer": None}]),
    "mixed.jsonl": '{"question": "q", "answer": "a"}\n{"question": "q", "answer": 7}\n',
    "nested.jsonl": '{"question": "q", "answer": {"text": "a"}}\n',
    "broken.jsonl": '{"question": "q", "answer": "a"}\n{"question": "q", "answer": "a"\n',
    "list.jsonl": "[1, 2]\n",
    "scalar.json": '"question"',
    "half.jsonl": '{"question": "\\ud83d", "answer": "a"}\n',
    "role.jsonl": lines(chat(("user", "q"), ("robot", "a"))),
    "starts.jsonl": lines(chat(("assistant", "a"), ("user", "q"), ("assistant", "a"))),
    "twice.jsonl": lines(chat(("user", "q"), ("user", "q"), ("assistant", "a"))),
    "image.jsonl": lines({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
    "keys.jsonl": lines({"messages": [{"from": "human", "value": "q"}]}),
    "unanswered.jsonl": "".join(json.dumps(chat(("user", f"q{n}"))) + "\n" for n in range(9)),
    "damaged.parquet": b"PAR1 and then nothing",
    "script.py": "import datasets",
    "book.xlsx": "PK",
    "broken.jinja": "{% for m in messages %}",
}
MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "a wrong column": (
        "source: wrong.csv, format: qa",
        ("wrong.csv:1: there is no column 'answer'. Did you mean 'anwser'?",),
    ),
    "columns that fit no format": ("source: wrong.csv", ("fit no format. Map your columns under data.columns.",)),
    "an unknown format": ("source: good.csv, format: q&a", ("'data.format' is 'q&a'.",)),
    "a mapping of an unknown column": (
        "source: good.csv, format: qa, columns: {prompt: q}",
        ("is not a column of the format qa",),
    ),
    "another delimiter": (
        "source: semicolon.csv",
        ("semicolon.csv:1: its columns seem to be separated by ';'", 'data.delimiter: ";"'),
    ),
    "bad UTF-8": ("source: latin.csv", ("latin.csv:32: is not UTF-8", "Save it as UTF-8.")),
    "a comma without quotes": ("source: wide.csv", ("wide.csv:32: this row has 3 cells", "in quotes")),
    "two columns with one name": ("source: twice.csv", ("twice.csv:1: there are two columns 'answer'. Rename",)),
    "an empty file": ("source: empty.csv", ("empty.csv: does not begin with a line of column names",)),
    "no rows": ("source: header.csv", ("header.csv: has column names but no rows",)),
    "no usable row": ("source: blank.csv", ("blank.csv: all 2 rows have an empty 'answer'",)),
    "NaN and null": ("source: nan.json", ("nan.json: all 2 rows have an empty 'question' or 'answer'",)),
    "columns that differ between files": (
        "source: [good.csv, other.csv]",
        ("other.csv: has a column 'source' that", "data.drop_columns"),
    ),
    "a quote never closed": ("source: quote.csv", ("quote.csv:32: cannot be read as CSV",)),
    "mixed types": (
        "source: mixed.jsonl",
        ("mixed.jsonl:2: 'answer' is a number here and text in", "Write it the same way"),
    ),
    "nested cells": ("source: nested.jsonl", ("nested.jsonl:1: 'answer' is a dict, not text",)),
    "a broken line": ("source: broken.jsonl", ("broken.jsonl:2: is not JSON", "one whole object")),
    "lines that are not objects": (
        "source: list.jsonl",
        ("list.jsonl:1: is not an object with a key for each column",),
    ),
    "a file that is not a table": ("source: scalar.json", ("scalar.json: holds no list of objects",)),
    "half a surrogate pair": ("source: half.jsonl", ("half.jsonl:1: 'question' holds half a character",)),
    "an unknown role": (
        "source: role.jsonl",
        ("role.jsonl:1: its message 2 has the unknown role 'robot'. Known roles: system",),
    ),
    "the assistant first": ("source: starts.jsonl", ("starts.jsonl:1: its conversation starts with the assistant",)),
    "two questions in a row": (
        "source: twice.jsonl",
        ("twice.jsonl:1: its messages 1 and 2 are both from the user", "join such messages"),
    ),
    "images": ("source: image.jsonl", ("image.jsonl:1: the content of its message 1 is not text",)),
    "keys of another format": ("source: keys.jsonl", ("keys.jsonl:1: its message 1 has no 'role' and 'content'",)),
    "conversations without an answer": (
        "source: unanswered.jsonl",
        ("all 9 rows have an empty 'messages (no answer in it)'",),
    ),
    "a damaged file": ("source: damaged.parquet", ("damaged.parquet: cannot be read",)),
    "a dataset script": ("source: script.py", ("script.py' is a script, and scripts are never run",)),
    "a spreadsheet": ("source: book.xlsx", ("book.xlsx' is not of a known kind", ".csv")),
    "no such file": ("source: gone.csv", ("there is no file 'gone.csv'. Looked in",)),
    "a folder": ("source: .", ("is a folder, but not a dataset that save_to_disk wrote",)),
    "a template with an unknown column": (
        "source: good.csv, template: '{qestion}'",
        ("names '{qestion}'", "Did you mean 'question'?"),
    ),
    "a broken template": ("source: good.csv, template: '{question'", ("data.template: expected '}'",)),
    "a filter on an unknown column": (
        "source: good.csv, filter: {lang: en}",
        ("data.filter: there is no column 'lang'",),
    ),
    "a filter that leaves nothing": (
        "source: good.csv, filter: {question: x}",
        ("data.filter: leaves none of 30 rows", "'q0'"),
    ),
    "groups by an unknown column": (
        "source: good.csv, split: {group_by: doc}",
        ("data.split.group_by: there is no column 'doc'",),
    ),
    "too few rows": ("source: few.csv", ("2 different prompts are too few", "leaves none for")),
    "shares above one": (
        "source: good.csv, split: {train: 0.9, test: 0.9}",
        ("'data.split' has shares that add up to more than 1",),
    ),
    "the same rows in train and test": (
        "split: {train: [good.csv], validation: 0, test: [good.csv]}",
        ("good.csv:2: is in test too", "30 of 30 training rows", "duplicates: drop"),
    ),
    "a named split of a file": ("source: good.csv, split: {test: test}", ("there is no file 'test'",)),
    "everything too long": (
        "source: good.csv, max_length: 4",
        ("max_length = 4 leaves nothing to learn in all", "raise max_length"),
    ),
    "a broken chat template": (
        "source: good.csv, chat_template: broken.jinja",
        ("broken.jinja:1: is not a Jinja template",),
    ),
    "a missing chat template": (
        "source: good.csv, chat_template: own.jinja",
        ("there is no file 'own.jinja'",),
    ),
    "no source": ("format: qa", ("'data.source' is missing",)),
    "an unknown key": ("source: good.csv, shufle: 1", ("unknown key 'data.shufle'. Did you mean 'shuffle'?",)),
    "a limit of 0": (
        "source: good.csv, limit: 0",
        ("'data.limit' is 0: input should be greater than or equal to 1",),
    ),
    "labels only in the test rows": ("source: good.csv", ("' is in no training row", "no method can know them")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_there_are_at_least_twenty_mistakes() -> None:
    assert len(MISTAKES) >= 20


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_with_its_place_and_a_hint(
    mistake: str, folder: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    data, expected = MISTAKES[mistake]
    labels = mistake.startswith("labels")
    sets = ("--set", f"data={{{data}}}", "--set", f"evaluate.metrics=[{'accuracy' if labels else 'exact_match'}]")
    for command in ("preview", "check"):
        refused(adapterzoo(command, write_recipe("lora"), *sets), *expected)
