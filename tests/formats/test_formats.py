"""Formats of rows: recognised or named, with mapped columns and templates; errors name the row that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shapes import EXAMPLES, SPOKEN, A, S, U

from adapterzoo.data.rows import read_rows
from adapterzoo.data_row import DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.formats import FORMATS
from adapterzoo.recipe.schema import DataSection


def read(folder: Path, *cells: Any, **settings: Any) -> tuple[list[DataRow], list[str]]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in cells), encoding="utf-8")
    notes: list[str] = []
    return read_rows(DataSection(source=str(path), **settings), [str(path)], None, notes.append)[0], notes


def roles_and_texts(folder: Path, cells: Any, **settings: Any) -> list[tuple[str, str]]:
    (row,), _ = read(folder, cells, **settings)
    return [(turn.role, turn.content) for turn in row.turns]


def refusal(folder: Path, *cells: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, *cells, **settings)
    return str(caught.value)


def test_there_is_an_example_of_every_format() -> None:
    assert EXAMPLES.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_recognised_and_announced(name: str, tmp_path: Path) -> None:
    cells, turns = EXAMPLES[name]
    (row,), notes = read(tmp_path, {**cells, "id": 1})
    assert [tuple(turn) for turn in row.turns] == turns
    assert row.raw == (name == "text")
    assert notes == [f"data: format {name} ({FORMATS[name].summary}), recognised from the columns"]
    assert roles_and_texts(tmp_path, cells, format=name) == turns


def test_texts_that_no_example_has_are_named(tmp_path: Path) -> None:
    cells = {"question": "Who sang?", "answer": "Ann", "context": "Ann sang.", "topic": "a song", "id": "a1"}
    uses = "(data.template can use it, data.drop_columns leaves it out)"
    said = f"data: no example has the text in 'context', 'topic' {uses}"
    assert read(tmp_path, cells)[1][1:] == [said]
    assert read(tmp_path, cells, format="qa")[1] == [said]
    assert "'背景'" in read(tmp_path, {"question": "谁?", "answer": "安", "背景": "安唱了一首歌。"})[1][-1]
    for used in (
        {"template": "{context} {question}"},
        {"drop_columns": ["context"]},
        {"filter": {"context": "Ann sang."}},
    ):
        assert "'topic'" in (note := read(tmp_path, cells, format="qa", **used)[1][-1])
        assert "'context'" not in note


def test_an_instruction_without_input(tmp_path: Path) -> None:
    assert roles_and_texts(tmp_path, {"instruction": "Sing.", "input": "", "output": "La"}) == [(U, "Sing."), (A, "La")]
    assert roles_and_texts(tmp_path, {"instruction": "Sing.", "output": "La"}) == [(U, "Sing."), (A, "La")]


def test_columns_are_mapped(tmp_path: Path) -> None:
    cells = {"Frage": "Hi", "Antwort": "Hello", "text": "?"}
    assert roles_and_texts(tmp_path, cells, columns={"question": "Frage", "answer": "Antwort"}) == [
        (U, "Hi"),
        (A, "Hello"),
    ]
    turns = roles_and_texts(
        tmp_path, {"conversation": SPOKEN[1:]}, format="messages", columns={"messages": "conversation"}
    )
    assert turns == [(U, "Hi"), (A, "Hello")]


def test_columns_that_fit_no_format_or_several(tmp_path: Path) -> None:
    error = refusal(tmp_path, {"Frage": "a", "Antwort": "b"})
    assert "its columns (Frage, Antwort) fit no format. Map your columns under data.columns." in error
    assert "qa (question, answer)" in error
    both = {"question": "a", "answer": "b", "prompt": "a", "completion": "b"}
    error = refusal(tmp_path, both)
    assert "its columns fit several formats: prompt_completion, qa. Choose with data.format." in error
    assert roles_and_texts(tmp_path, both, format="qa") == [(U, "a"), (A, "b")]
    assert roles_and_texts(tmp_path, both, drop_columns=["prompt"]) == [(U, "a"), (A, "b")]
    assert "no column 'antwort'. Did you mean 'Antwort'" in refusal(
        tmp_path, {"Frage": "a", "Antwort": "b"}, columns={"question": "Frage", "answer": "antwort"}
    )


def test_all_names_of_roles_in_a_long_conversation(tmp_path: Path) -> None:
    named = ["system", "human", "gpt", "user", "assistant", "human", "chatgpt"]
    turns = roles_and_texts(
        tmp_path, {"conversations": [{"from": name, "value": str(n)} for n, name in enumerate(named)]}
    )
    assert [role for role, _ in turns] == [S, U, A, U, A, U, A]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([(A, "Hello"), (U, "Hi")], "rows.jsonl:2: its conversation starts with the assistant. It must start with"),
        ([(U, "a"), (U, "b"), (A, "c")], "rows.jsonl:2: its messages 1 and 2 are both from the user."),
        ([(U, "a"), (S, "b"), (A, "c")], "its message 2 is a system message; only the first message can be one."),
        ([("tool", "a")], "rows.jsonl:2: its message 1 has the unknown role 'tool'. Known roles: system, "),
        ([(U, ["a"])], "the content of its message 1 is not text. Images and tool calls"),
        ("Hi", "rows.jsonl:2: 'messages' is text here and a list in"),
        ([None], "rows.jsonl:2: its message 1 has no 'role' and 'content'. Like [{"),
    ],
)
def test_conversations_that_are_not_usable(messages: Any, expected: str, tmp_path: Path) -> None:
    if isinstance(messages, list):
        messages = [pair and {"role": pair[0], "content": pair[1]} for pair in messages]
    assert expected in refusal(tmp_path, {"messages": SPOKEN}, {"messages": messages})
    rows, notes = read(tmp_path, {"messages": SPOKEN}, {"messages": messages}, bad_rows="drop")
    assert len(rows) == 1
    assert "1 of 2 rows dropped as unusable" in notes[1]


def test_a_last_question_without_an_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    more = [*SPOKEN, {"role": U, "content": "And?"}]
    (row, *rest), notes = read(tmp_path, {"messages": more}, {"messages": [SPOKEN[1]]}, {"messages": []})
    assert row.turns[-1] == Turn(A, "Hello")
    assert rest == []
    assert any("1 conversations end with a question, which is left out (first: " in line for line in notes)
    assert any("'messages (no answer in it)' is empty" in line for line in notes)


def test_a_conversation_without_text_is_reported_under_the_users_name_of_the_column(tmp_path: Path) -> None:
    empty = [{"role": U, "content": " "}]
    cells = [{"chat": SPOKEN}, {"chat": [SPOKEN[1]]}, {"chat": empty}, {"chat": []}]
    _, notes = read(tmp_path, *cells, columns={"messages": "chat"})
    for column in ("chat (no answer in it)", "chat (an empty message)", "chat"):
        assert any(f"1 of 4 rows dropped: '{column}' is empty" in line for line in notes), notes


def test_a_template_for_the_question(tmp_path: Path) -> None:
    template = "Answer in {language}: {question} {{really}}"
    cells = {"question": "Hi", "answer": "Hallo", "language": "German"}
    assert roles_and_texts(tmp_path, cells, template=template) == [(U, "Answer in German: Hi {really}"), (A, "Hallo")]
    alpaca = {"instruction": "Translate.", "input": "Hi", "output": "Hallo"}
    assert roles_and_texts(tmp_path, alpaca, template="{instruction}: {input}") == [(U, "Translate.: Hi"), (A, "Hallo")]


def test_a_template_for_the_whole_example(tmp_path: Path) -> None:
    (row,), _ = read(tmp_path, {"q": "你好", "a": "好"}, template="问题：{q}\n答案：{answer}。",
                     columns={"question": "q", "answer": "a"})  # fmt: skip
    assert row.raw
    assert [tuple(turn) for turn in row.turns] == [(U, "问题：你好\n答案："), (A, "好。")]
    system = {"template": "{system}\nQ: {question}\nA: {answer}", "system": "Be brief."}
    assert roles_and_texts(tmp_path, {"question": "q", "answer": "a"}, **system)[0] == (U, "Be brief.\nQ: q\nA: ")


def test_a_template_for_plain_text(tmp_path: Path) -> None:
    cells = {"title": "T", "body": "B"}
    (row,), _ = read(tmp_path, cells, format="text", template="# {title}\n{body}")
    assert row.raw
    assert row.turns == (Turn(A, "# T\nB"),)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"template": "{qestion}"},
            "data.template: names '{qestion}', and there is no such column. Did you mean 'quest",
        ),
        ({"template": "no field"}, "data.template: names no column"),
        ({"template": "{question!r}"}, "data.template: is not a template: '{question!r}' is not the name of a column."),
        ({"template": "{question.__class__}"}, "there is no such column"),
        ({"template": "{question"}, "data.template: expected '}' before end of string"),
        ({"template": "{}"}, "'{}' is not the name of a column"),
        ({"template": "{question} {answer} {answer}"}, "names the answer, '{answer}', more than once"),
        ({"template": "{question} {answer}", "system": "S"}, "writes the whole example, but not the system message"),
        ({"template": "{question} {system}"}, "names '{system}', and there is no such column"),
    ],
)
def test_templates_are_checked_against_the_columns(settings: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(tmp_path, {"question": "a", "answer": "b"}, **settings)


def test_templates_and_system_messages_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    assert "cannot be used for a conversation" in refusal(tmp_path, {"messages": SPOKEN}, template="{messages}")
    assert "data.system: is not used for plain text" in refusal(tmp_path, {"text": "a"}, system="S")
