"""Ask several adapters at once, and talk to one of them at a terminal."""

from __future__ import annotations

import copy
import json
import os
import pty
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from families import THINKING, tokenizer
from forked import Forked
from refusals import refused

from adapterzoo.adapters.asking import conversation, find_answerers
from adapterzoo.adapters.loading import answer_tokens, question_row
from adapterzoo.evaluation import streaming
from adapterzoo.recipe.schema import DataSection
from adapterzoo.terminal import clean_lines
from adapterzoo.tokens.encode import Encoder

SHORT = ("--max-new-tokens", "6")
ASKED = ("--prompt", "walk", "--prompt", "play", *SHORT)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """Return the output folder of a run with two methods on the recipe's base model, and one on nf4."""
    from click.testing import CliRunner
    from tiny import RECIPE

    from adapterzoo.cli import main

    folder = tmp_path_factory.mktemp("asked")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods="lora, ia3, qlora"), encoding="utf-8")
    sets = ("--set", "train.learning_rate=1e-2", "--set", "train.steps=30", "--seed", "0", "--seed", "1")
    done = CliRunner().invoke(main, ["run", str(recipe), *sets, "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    return folder / "out"


def test_several_answers_are_those_of_each_alone(out: Path, adapterzoo: Callable[..., Result]) -> None:
    alone = {
        label: adapterzoo("generate", out, "-m", label, *ASKED).stdout.splitlines()
        for label in ("lora", "ia3", "qlora")
    }
    alone["base"] = adapterzoo("generate", out, "--base", *ASKED).stdout.splitlines()
    done = adapterzoo("generate", out, "--compare", "--format", "json", *ASKED)
    assert done.exit_code == 0, done.output
    records = json.loads(done.stdout)
    assert [record["prompt"] for record in records] == ["walk", "play"]
    assert list(records[0]["answers"]) == ["base", "ia3", "lora", "qlora"]
    for label, answers in alone.items():
        assert [record["answers"][label] for record in records] == answers, label
    assert len({tuple(answers) for answers in alone.values()}) > 1, "the adapters answer differently"
    second = adapterzoo("generate", out, "-m", "lora", "--seed", 1, *ASKED).stdout.splitlines()
    some = adapterzoo("generate", out, "-m", "lora", "-m", "ia3", "--seed", 1, "--format", "json", *ASKED)
    assert [record["answers"]["lora"] for record in json.loads(some.stdout)] == second


def test_answers_are_printed_side_by_side(out: Path, adapterzoo: Callable[..., Result]) -> None:
    done = adapterzoo("generate", out, "--compare", "-m", "lora", "-m", "ia3", *ASKED)
    assert done.exit_code == 0, done.output
    first = done.stdout.splitlines()[:4]
    assert first[0].split() == ["1", "walk"]
    assert [line.split()[0] for line in first[1:]] == ["base", "lora", "ia3"]
    refused(adapterzoo("generate", out, *ASKED), "--method: is missing", "give --base or --compare")


def test_a_conversation_at_a_terminal(out: Path, adapterzoo: Callable[..., Result]) -> None:
    """In a real pseudo-terminal, the first answers of each conversation are those to single prompts."""
    alone = [clean_lines(line) for line in adapterzoo("generate", out, "-m", "lora", *ASKED).stdout.splitlines()]
    main, side = pty.openpty()
    command = [sys.executable, "-m", "adapterzoo", "generate", str(out), "-m", "lora", *SHORT]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    process = Forked(command, stdin=side, stdout=side, stderr=side, env=environment)
    os.close(side)
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        begun = time.monotonic()
        while text not in seen:
            assert time.monotonic() < begun + 120, seen.decode(errors="replace")
            seen += os.read(main, 65536)

    wait_for(b"> ")
    assert b"Ask lora. It remembers what was said" in seen
    shown = []
    for line in (b"walk\n", b"play\n", b"/clear\n", b"play\n"):
        seen = b""
        os.write(main, line)
        wait_for(b"> ")
        shown.append(" ".join(seen.decode(errors="replace").split()))
    for text, answer in ((shown[0], alone[0]), (shown[3], alone[1])):
        assert " ".join(answer.split()) in text
    os.write(main, b"\x04")
    assert process.wait(60) == 0
    os.close(main)


def test_a_conversation_remembers_and_forgets(out: Path, adapterzoo: Callable[..., Result]) -> None:
    alone = adapterzoo("generate", out, "-m", "lora", *ASKED).stdout.splitlines()
    (answerer,) = find_answerers(out, ["lora"])
    pieces: list[str] = []
    with conversation(answerer, 6, lambda message: None) as talk:
        assert talk.ask("walk", pieces.append) == alone[0]
        assert "".join(pieces).strip() == alone[0]
        assert [turn.role for turn in talk.history] == ["user", "assistant"]
        talk.ask("play", pieces.append)
        assert [turn.content for turn in talk.history] == ["walk", alone[0], "play", talk.history[3].content]
        talk.history.clear()
        assert talk.ask("play", pieces.append) == alone[1], "nothing of the first conversation is left"
        # The model reads 256 tokens, and a token is a byte: the oldest turns have to go.
        talk.history.clear()
        for _ in range(12):
            talk.ask("x" * 40, pieces.append)
            if talk.forgotten:
                break
        assert talk.forgotten
        assert talk.history[0].role == "user"
        assert len(talk.history) < 12


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<think>\n\n</think>\n\nIt is 12.", "It is 12."),
        ("<think> so\n</think>\n\nIt is 12.", "<think> so\n</think>\n\nIt is 12."),
        ("<think>\n", "<think>"),
        ("It is 12.", "It is 12."),
    ],
)
def test_what_a_template_has_before_an_answer_is_not_shown(
    written: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pieces = tmp_path / "thinking.jinja", list[str]()
    path.write_text(THINKING)
    data = DataSection(source="x.csv", max_length=4096, chat_template=str(path))
    encoder = Encoder(copy.deepcopy(tokenizer("chatml")), data, lambda message: None)
    row = question_row(encoder.data, "q")
    prompt, encoded = encoder.prompt(row), answer_tokens(encoder, row)
    ids = [*encoder.tokenizer(written, add_special_tokens=False)["input_ids"], encoded.end_ids[0]]

    def write(*_: object, streamer: Any) -> list[list[int]]:
        for tokens in (prompt, *([token] for token in ids)):
            streamer.put(torch.tensor(tokens))
        streamer.end()
        return [[*prompt, *ids]]

    monkeypatch.setattr(streaming, "generated", write)
    assert streaming.stream(torch.nn.Identity(), encoded, prompt, 99, pieces.append) == shown
    assert "".join(pieces).rstrip() == shown
    if shown == "It is 12.":
        assert len([piece for piece in pieces if piece]) > 1, "word by word"


def test_a_terminal_gets_no_control_characters_as_json(
    out: Path, adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.evaluation import generation

    monkeypatch.setattr(generation, "generate", lambda *_: ["\u202eback \x1b[31m"])
    done = adapterzoo("generate", out, "-m", "lora", "--prompt", "go", "--format", "json")
    assert json.loads(done.stdout)[0]["answers"]["lora"] == "\u202eback \x1b[31m"
    assert "\x1b" not in done.stdout
