"""Check what ``adapterzoo preview`` prints, in a pipe and in a terminal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_learned_tokens_are_in_brackets(
    write_recipe: Callable[..., Path], adapterzoo_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = adapterzoo_process("preview", write_recipe("lora"), "-n", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    first, *_ = done.stdout.split("── train 2 of 24")
    head, *lines = first.splitlines()
    assert head.startswith("── train 1 of 24 · ")
    assert " tokens, " in head
    assert head.rpartition(" ")[2].rpartition(":")[0].endswith("verbs.csv")
    verb = lines[1].removesuffix("<|end|>↵")
    assert lines[0] == "<|start|>user↵"
    assert lines[2] == "<|start|>assistant↵"
    assert lines[3].startswith(f"⟦{verb[:2]}")
    assert lines[3].endswith("<|end|>⟧")
    tail = done.stdout.splitlines()[-8:]
    assert any(line.startswith("train: 24 rows, ") and line.endswith(" of them in the loss") for line in tail)
    assert any(line.startswith("tokens per row: 50 % up to ") for line in tail)
    assert "format qa; written with the model's own chat template; loss on completion" in tail
    assert "padding <|unk|>, never in the loss; an answer ends with <|end|>" in tail


def test_tokens_prints_each_token_on_a_line(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    shown = adapterzoo("preview", write_recipe("lora"), "-n", "1", "--tokens").stdout.splitlines()
    assert shown[1] == "      1      '<|start|>'"
    assert any(line.startswith("      2 loss '<|end|>'") for line in shown)
    tokens = int(shown[0].split(" · ")[1].split()[0])
    assert len([line for line in shown[1:] if line[:7].strip().isdigit()]) == tokens


@pytest.mark.parametrize("split", ["validation", "test"])
def test_another_split(split: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]) -> None:
    assert f"── {split} 1 of 8" in adapterzoo("preview", write_recipe("lora"), "--split", split).stdout


def test_notes_say_which_rows_were_left_out(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    rows = [f"verb{i},past{i},{'en' if i % 2 else 'de'}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("question,answer,language\n,x,en\n" + "\n".join(rows) + "\n")
    sets = ("data.source=rows.csv", "data.columns={}", "data.filter={language: en}", "data.chat_template=plain")
    done = adapterzoo(
        "preview", write_recipe("lora"), *(part for override in sets for part in ("--set", override)), "-n", "1"
    )
    assert done.exit_code == 0, done.stderr
    text = done.stdout
    assert "data: format qa (a question and its answer), recognised from the columns" in text
    assert "data: 30 of 61 rows left out by data.filter" in text
    assert "data: 1 of 61 rows dropped: 'question' is empty (first: " in text
    assert "written with plain lines; loss on completion" in text
    assert "↵\n⟦past" in text


def test_control_characters_are_removed(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("verb,past\n" + "".join(f"\x1b[31m{i},[bold]x{i}[/]\x07\n" for i in range(40)))
    done = adapterzoo("preview", write_recipe("lora"), "--set", "data.source=rows.csv", "-n", "2")
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert "[bold]x" in done.stdout


def test_special_and_learned_tokens_have_colours(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    from adapterzoo.data_row import DataRow
    from adapterzoo.recipe.schema import DataSection
    from adapterzoo.tokens.encode import Encoder
    from adapterzoo.tokens.show import marked_text

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    example = Encoder(tokenizer, DataSection(source="x.csv")).encode(DataRow.pair("go 好", "went 🙂"))
    assert example is not None
    text = marked_text(example, tokenizer)
    assert text.plain.endswith("⟦went 🙂<|end|>⟧")
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["<|start|>"] == "cyan"
    assert "bold green" in styles["w"]
    assert styles["<|end|>"] == "bold green cyan"


def test_a_mistake_in_the_data_gives_no_traceback(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("verb,oast\nx,y\n")
    done = adapterzoo("preview", write_recipe("lora"), "--set", "data.source=rows.csv")
    assert done.exit_code == 2
    assert "there is no column 'past'" in done.stderr
    assert done.stdout == ""
