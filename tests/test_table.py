from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from adapterzoo import table
from adapterzoo.comparison import Comparison, compare
from adapterzoo.results import Result
from adapterzoo.store import Store

HOSTILE = "\x1b[2J\x1b]0;owned\x07 [/] [red]x[/red] |<b>`*\u202e"


def rows() -> list[Result]:
    common = {"seed": 0, "total_params": 134_515_008, "peak_memory_bytes": 1_690_000_000}
    found = [
        Result(
            label="base",
            method=None,
            base="none",
            metrics={"test_loss": 3.116, "perplexity": 22.6, "exact_match": 0.0},
            **common,
        ),
        Result(
            label="base-4-shot",
            method=None,
            base="none",
            metrics={"test_loss": 1.136, "perplexity": 3.1, "exact_match": 0.323},
            **common,
        ),
    ]
    for i, label in enumerate(("lora", "qlora", "ia3", "loha", "lokr", "adalora", "oft")):
        found.append(
            Result(
                label=label,
                method=label,
                base="nf4" if label == "qlora" else "none",
                learning_rate=3e-4 * (i + 1),
                metrics={"test_loss": 0.465 + i / 100, "perplexity": 1.5 + i, "exact_match": 0.713 - i / 100},
                trainable_params=57_600 if label == "ia3" else 2_442_240,
                adapter_bytes=241_200 if label == "ia3" else 9_800_000,
                train_seconds=754.0 + i,
                tokens_per_second=250.0 - i,
                **common,
            )
        )
    return found


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    for result in rows():
        Store(tmp_path).write(result)
    return compare(tmp_path)


def shown(comparison: Comparison, width: int) -> str:
    stream = io.StringIO()
    table.render(comparison, Console(file=stream, width=width))
    return stream.getvalue()


def test_everything_fits_in_80_columns(comparison: Comparison) -> None:
    text = shown(comparison, 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert "left out" not in text
    assert lines[0].split() == [
        "method",
        "match",
        "loss",
        "params",
        "%",
        "size",
        "time",
        "tok/s",
        "memory",
        "lr",
        "base",
    ]
    assert len(lines) == 1 + 9 + 1
    assert "\x1b" not in text


def test_the_best_of_each_column_is_marked_and_needs_no_colour(comparison: Comparison) -> None:
    by_label = {line.split()[0]: line for line in shown(comparison, 80).splitlines()}
    assert "0.713*" in by_label["lora"]
    assert "0.465*" in by_label["lora"]
    assert "57.6k*" in by_label["ia3"]
    assert shown(comparison, 80).count("0.713") == 1
    assert "*" not in by_label["base"], "the base trains nothing: its cost is no merit"


def test_a_narrow_terminal_loses_columns_not_digits(comparison: Comparison) -> None:
    text = shown(comparison, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert "0.713*" in text
    assert "…" not in text
    assert "left out for width:" in " ".join(text.split())


def test_a_wide_terminal_shows_more(comparison: Comparison) -> None:
    assert "perpl." in shown(comparison, 120)


def test_markdown_csv_and_json(comparison: Comparison) -> None:
    markdown = table.markdown(comparison)
    assert "| lora | **0.713** |" in markdown
    assert len({line.count("|") for line in markdown.splitlines()}) == 1
    parsed = {row["label"]: row for row in csv.DictReader(io.StringIO(table.csv_text(comparison)))}
    assert float(parsed["lora"]["exact_match"]) == 0.713
    assert parsed["base"]["learning_rate"] == ""
    record = {row["label"]: row for row in json.loads(table.json_text(comparison))["rows"]}["lora"]
    assert record["metrics"]["exact_match"] == 0.713
    assert {
        "label", "method", "status", "error", "seeds", "metrics", "trainable_params", "total_params", "adapter_bytes",
        "train_seconds", "peak_memory_bytes", "tokens_per_second", "learning_rate", "base",
    } <= set(record)  # fmt: skip


def test_hostile_text_is_inert_everywhere(tmp_path: Path) -> None:
    Store(tmp_path).write(Result(label="a", method="a", seed=0, base="none", status="failed", error=HOSTILE))
    Store(tmp_path).write(Result(label="b", method="b", seed=0, base="none", status="failed", error="=HYPERLINK(1)"))
    comparison = compare(tmp_path)
    for text in (shown(comparison, 80), table.markdown(comparison), table.csv_text(comparison)):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
    assert "[/] [red]x[/red]" in shown(comparison, 80)
    assert "<b>" not in table.markdown(comparison)
    assert "'=HYPERLINK" in table.csv_text(comparison)
    assert json.loads(table.json_text(comparison))["rows"][0]["error"] == HOSTILE


def test_a_failed_row_keeps_its_place_and_says_why(tmp_path: Path) -> None:
    for result in rows()[:3]:
        Store(tmp_path).write(result)
    Store(tmp_path).write(
        Result(
            label="broke",
            method="broke",
            seed=0,
            base="none",
            learning_rate=1.0,
            status="failed",
            error="out of " + "very long " * 30,
        )
    )
    text = shown(compare(tmp_path), 80)
    row, *_ = (line for line in text.splitlines() if line.startswith("broke "))
    assert row.split()[:2] == ["broke", "failed"]
    assert "very long very long" in text
