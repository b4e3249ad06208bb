from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from jsonschema import validate
from rich.console import Console
from written import write

from adapterzoo.comparison import Comparison, compare
from adapterzoo.report import table, text
from adapterzoo.report.columns import p_value_text
from adapterzoo.results.result import Result
from adapterzoo.results.store import Store

HOSTILE = "\x1b[2J\x1b]0;owned\x07 [/] [red]x[/red] |<b>`*\u202e"
SCHEMA = Path("docs/comparison.schema.json")
# Number of right answers, of 300.
RIGHT = {
    "base": 0,
    "base-4-shot": 97,
    "lora": 214,
    "qlora": 212,
    "ia3": 206,
    "loha": 181,
    "lokr": 213,
    "adalora": 209,
    "oft": 211,
}


def results(folder: Path, seeds: int = 1) -> None:
    """Write the results of nine rows like those of the quickstart."""
    for number, (label, right) in enumerate(RIGHT.items()):
        trained = not label.startswith("base")
        costs = {
            "learning_rate": 3e-4 * number,
            "trainable_params": 57_600 if label == "ia3" else 2_442_240,
            "adapter_bytes": 241_200 if label == "ia3" else 9_800_000,
            "train_seconds": 754.0 + number,
            "tokens_per_second": 250.0 - number,
        }
        for seed in range(seeds if trained else 1):
            write(
                folder,
                label,
                [(index * 7) % 300 < right - seed for index in range(300)],
                seed=seed,
                quantization="nf4" if label == "qlora" else "none",
                total_params=134_515_008,
                peak_memory_bytes=1_690_000_000,
                **(costs if trained else {}),
            )


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    results(tmp_path)
    return compare(tmp_path)


def shown(comparison: Comparison, width: int) -> str:
    stream = io.StringIO()
    table.render(comparison, Console(file=stream, width=width))
    return stream.getvalue()


def test_the_most_important_columns_fit_in_80_characters(comparison: Comparison) -> None:
    printed = shown(comparison, 80)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in printed
    assert lines[0].split() == [
        "method", "match", "95", "%", "vs", "best", "p", "loss", "params", "time", "lr", "quant.",
    ]  # fmt: skip
    assert "\x1b" not in printed


def test_tied_rows_are_marked_and_no_winner_is_named(comparison: Comparison) -> None:
    printed = shown(comparison, 80)
    by_label = {line.split()[0]: line for line in printed.splitlines()}
    for label in ("lora", "lokr", "qlora", "oft", "adalora"):
        assert "=" in by_label[label].split()[1]
    assert "=" not in by_label["loha"]
    assert "57.6k*" in by_label["ia3"], "the lowest cost is marked"
    assert "*" not in by_label["base"], "the base trains nothing, so its costs are not the best"
    one_line = " ".join(printed.split())
    assert "no winner; lora is tied with lokr, qlora, oft, adalora, ia3" in one_line
    assert "300 test examples of one seed: the score of another seed may be outside" in one_line


def test_a_best_row_that_is_not_tied_is_marked(tmp_path: Path) -> None:
    for label, share in (("a", 90), ("b", 50), ("c", 20)):
        write(tmp_path, label, [index < share for index in range(100)])
    printed = shown(compare(tmp_path), 80)
    assert "0.900*" in printed
    assert "match: a is the best, and no other row is tied with it" in printed


@pytest.mark.parametrize(
    ("p", "text"), [(0.0496, "<.050"), (0.05, ".050"), (0.0494, ".049"), (0.0004, "<.001"), (1, "1.000")]
)
def test_a_p_value_that_makes_no_tie_is_not_written_like_one_that_does(p: float, text: str) -> None:
    assert p_value_text(p) == text


def test_a_score_that_only_looks_like_the_best_is_not_marked(tmp_path: Path) -> None:
    right = [index % 3 > 0 for index in range(100)]
    for label, more in (("lora", 0.0), ("ia3", 0.0004)):
        write(tmp_path, label, right, losses=[1.001 + index / 100 + more * (1 + index % 2) for index in range(100)])
    lines = shown(compare(tmp_path, sort="test_loss"), 80).splitlines()
    losses = {line.split()[0]: line.split()[1] for line in lines if line.startswith(("lora ", "ia3 "))}
    assert losses == {"lora": "0.748*", "ia3": "0.748"}, "all 100 test examples show that ia3 is worse"


def test_the_number_of_seeds_is_below_the_table(tmp_path: Path) -> None:
    results(tmp_path, seeds=3)
    assert "intervals over 3 seeds and 300 test examples" in " ".join(shown(compare(tmp_path), 80).split())


def test_rows_that_cannot_be_compared_are_in_separate_tables(tmp_path: Path) -> None:
    write(tmp_path / "x", "a", [True] * 9)
    write(tmp_path / "y", "b", [True] * 9, recipe={"train": {"steps": 3}})
    comparison = compare(tmp_path / "x", tmp_path / "y")
    for printed in (shown(comparison, 80), text.markdown(comparison)):
        before, _, after = printed.partition("Not comparable with the first table:")
        assert "train.steps: 10 there, 3 here" in " ".join(after.split())
        assert "method" in before
        assert "method" in after


def test_the_table_of_another_task_is_ordered_by_its_own_metric(tmp_path: Path) -> None:
    write(tmp_path / "x", "lora", [True, False])
    for label, hits in (("ia3", 0.5), ("oft", 0.9)):
        metrics = {"retrieval_hit": hits, "test_loss": 1.0}
        write(tmp_path / "y", label, [True, False], metrics=metrics, recipe={"task": {"name": "embedding"}})
    comparison = compare(tmp_path / "x", tmp_path / "y")
    assert [row.label for row in comparison.rows] == ["lora", "oft", "ia3"]
    first, second = (line.split() for line in shown(comparison, 120).splitlines() if line.startswith("method"))
    assert first[1] == "match"
    assert second[1] == "hit"
    assert "match" not in second
    assert text.markdown(comparison).count("| method | match |") == 1


def test_times_of_different_machines_have_no_best(tmp_path: Path) -> None:
    for label, threads in (("a", 1), ("b", 2)):
        machine = {"device": "cpu", "threads": threads}
        write(tmp_path, label, [True] * 9, train_seconds=5.0 + threads, environment=machine)
    printed = shown(compare(tmp_path), 80)
    assert "0:06*" not in printed
    assert "times and memory were measured on different machines (threads: 1 and 2)" in " ".join(printed.split())


def test_a_budget_that_was_missed_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "a", [True], trainable_params=1_000_000, budget=1_010_000, total_params=9)
    write(tmp_path, "b", [True], trainable_params=57_600, budget=1_010_000, total_params=9)
    printed = shown(compare(tmp_path), 80)
    assert "57.6k!" in printed
    assert "1.00M!" not in printed
    assert "b: 57.6k parameters, the nearest to 1.01M that is possible" in printed
    assert "57.6k!*" not in printed, (
        "a size that the recipe asked for is never the best, and neither is one that missed it"
    )


def test_a_narrow_terminal_leaves_out_columns_and_no_digits(comparison: Comparison) -> None:
    printed = shown(comparison, 40)
    assert max(map(len, printed.splitlines())) <= 40
    assert "0.713=" in printed
    assert ".66-.76" in printed
    assert "…" not in printed
    assert "no room for columns:" in " ".join(printed.split())


def test_a_wide_terminal_shows_more_columns(comparison: Comparison) -> None:
    assert "tok/s" in shown(comparison, 130).splitlines()[0]


def test_markdown_csv_and_json(comparison: Comparison) -> None:
    markdown = text.markdown(comparison)
    assert "| lora | 0.713= | .66-.76 |" in markdown
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    parsed = {row["label"]: row for row in csv.DictReader(io.StringIO(text.csv_text(comparison)))}
    assert float(parsed["lora"]["exact_match"]) == pytest.approx(214 / 300)
    assert float(parsed["lora"]["exact_match_low"]) < 0.67
    assert parsed["loha"]["tied"] == "False"
    assert parsed["base"]["learning_rate"] == ""
    record = {row["label"]: row for row in json.loads(text.json_text(comparison))["rows"]}["lora"]
    assert {
        "label", "method", "status", "error", "seeds", "metrics", "trainable_params", "total_params", "adapter_bytes",
        "train_seconds", "peak_memory_bytes", "tokens_per_second", "learning_rate", "quantization", "intervals",
        "difference", "p_value", "tied", "fingerprints",
    } <= set(record)  # fmt: skip


def test_the_json_matches_its_schema(comparison: Comparison) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    printed = json.loads(text.json_text(comparison))
    validate(printed, schema)
    assert printed["schema"] == schema["properties"]["schema"]["const"]


def test_labels_are_broken_into_lines_before_a_digit_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "experiments-of-a-long-november" / "llama-3-8b-instruct" / name / "out"
        write(folder, "lora-r64-all-linear", [True, False], options={"r": ord(name)}, trainable_params=1234)
    parent = tmp_path / "experiments-of-a-long-november" / "llama-3-8b-instruct"
    comparison = compare(*(parent / name / "out" for name in "ab"))
    assert [row.label for row in comparison.rows] == ["lora-r64-all-linear (a/out)", "lora-r64-all-linear (b/out)"]
    printed = shown(comparison, 60)
    assert printed.count("0.500") == 2
    assert printed.count("1.23k") == 2
    assert max(map(len, printed.splitlines())) <= 60


def test_notes_name_the_table_that_they_are_about(tmp_path: Path) -> None:
    for name in ("x", "y"):
        fingerprints = {"data": name, "test": name}
        write(tmp_path / name, "a", [True] * 30, fingerprints=fingerprints)
        write(tmp_path / name, "b", [False] * 30, fingerprints=fingerprints)
        failed = {"status": "failed", "error": f"boom in {name}", "metrics": {}, "fingerprints": fingerprints}
        write(tmp_path / name, "oft", [True], **failed)
    printed = shown(compare(tmp_path / "x", tmp_path / "y"), 120)
    assert "oft (table 2) failed: boom in y" in printed
    assert "table 1: match: a is the best, and no other row is tied with it" in printed


def test_a_row_with_one_seed_among_rows_with_several_is_named(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, "a", [True] * 20 + [seed > 1] * 9, seed=seed)
    write(tmp_path, "b", [True] * 20 + [False] * 9, seed=7)
    printed = " ".join(shown(compare(tmp_path), 120).split())
    assert "only one seed, so the score of another seed may be outside the interval: b" in printed
    assert "if two rows have no seed in common, their difference pairs any of their seeds" in printed


def test_a_label_in_markdown_begins_no_heading_and_no_list(tmp_path: Path) -> None:
    for label in ("# heading", "- item", "_x_", "1. one"):
        write(tmp_path, label, [True], status="failed", error="no", metrics={}, method="lora")
    printed = text.markdown(compare(tmp_path))
    assert not [line for line in printed.splitlines() if line.startswith(("#", "-", "1.", "_"))]
    assert "**\\_x\\_**" in printed
    assert "bold: best of its column" in printed


def test_hostile_text_is_inert_everywhere(tmp_path: Path) -> None:
    write(tmp_path, "broken", [True], status="failed", error=HOSTILE, metrics={}, quantization=HOSTILE)
    Store(tmp_path).write(Result(label="a", method="a", seed=0, quantization="none", status="failed", error=HOSTILE))
    Store(tmp_path).write(
        Result(label="b", method="b", seed=0, quantization="none", status="failed", error="=HYPERLINK(1)")
    )
    write(tmp_path, "c", [True, False], metrics={HOSTILE: 0.5}, quantization=HOSTILE)
    comparison = compare(tmp_path)
    for printed in (shown(comparison, 80), text.markdown(comparison), text.csv_text(comparison)):
        assert "\x1b" not in printed
        assert "\x07" not in printed
        assert "\u202e" not in printed
    assert "[/] [red]x[/red]" in shown(comparison, 80)
    assert "<b>" not in text.markdown(comparison)
    assert "'=HYPERLINK" in text.csv_text(comparison)
    errors = {row["label"]: row["error"] for row in json.loads(text.json_text(comparison))["rows"]}
    assert errors["a"] == HOSTILE


def test_a_failed_row_stays_in_the_table_with_its_error_below(tmp_path: Path) -> None:
    results(tmp_path)
    failed = {"learning_rate": 1.0, "status": "failed", "error": "out of " + "very long " * 30}
    Store(tmp_path).write(Result(label="broke", method="broke", seed=0, quantization="none", **failed))
    printed = shown(compare(tmp_path), 80)
    row, *_ = (line for line in printed.splitlines() if line.startswith("broke "))
    assert row.split()[:2] == ["broke", "failed"]
    assert "very long very long" in printed


def test_a_row_with_a_failed_seed_is_ranked_by_its_other_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, "a", [index < 90 for index in range(100)], seed=seed)
        write(tmp_path, "b", [index < 50 for index in range(100)], seed=seed)
    write(tmp_path, "a", [True], seed=2, status="failed", error="boom", metrics={})
    printed = " ".join(shown(compare(tmp_path), 80).split())
    assert "0.900*" in printed
    assert "a failed: seed 2: boom" in printed
    assert "match: a is the best, and no other row is tied with it" in printed


def test_a_note_says_which_seeds_differences_are_computed_from(tmp_path: Path) -> None:
    for label, seeds in (("a", (0, 1)), ("b", (1,))):
        for seed in seeds:
            write(tmp_path, label, [index % 2 == seed for index in range(20)], seed=seed)
    assert "a difference is over the seeds that both rows have" in " ".join(shown(compare(tmp_path), 80).split())
