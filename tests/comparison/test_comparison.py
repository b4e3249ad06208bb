from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import Result
from written import ENVIRONMENT, FINGERPRINTS, RECIPE, write

from adapterzoo.comparison import compare, evidence
from adapterzoo.errors import UserError
from adapterzoo.metrics.registry import metrics
from adapterzoo.report import notes
from adapterzoo.results import result as results
from adapterzoo.results.row import MEAN, Row
from adapterzoo.results.store import PREDICTIONS, Store

FROZEN = Path("tests/support/frozen/schema-1")
FROZEN_2 = Path("tests/support/frozen/schema-2")


def answers(share: float, seed: int = 0, examples: int = 100) -> list[bool]:
    """Return which answers are right, about ``share`` of them; the same examples are hard for every share and seed."""
    rng = random.Random(seed)
    difficulties = [random.Random(index).random() for index in range(examples)]
    return [difficulty + rng.gauss(0, 0.02) < share for difficulty in difficulties]


def test_rows_are_tied_unless_one_is_clearly_better(tmp_path: Path) -> None:
    for seed in range(3):
        for label, share in (("a", 0.9), ("b", 0.9), ("c", 0.5)):
            write(tmp_path, label, answers(share, seed * 10 + ord(label)), seed=seed)
    rows = {row.label: row for row in compare(tmp_path).rows}
    assert rows["a"].tied
    assert rows["b"].tied
    assert rows["c"].tied is False
    assert rows["c"].difference is not None
    assert rows["c"].difference < -0.3
    assert rows["c"].p_value is not None
    assert rows["c"].p_value < 0.01
    for row in rows.values():
        low, high = row.intervals["exact_match"]
        assert low < row.metrics["exact_match"] < high
    shutil.rmtree(tmp_path / "b")
    assert compare(tmp_path).rows[0].tied is False, "no row is tied with it any more, so it wins"


def test_of_two_equal_best_rows_every_part_of_the_comparison_takes_the_same(tmp_path: Path) -> None:
    write(tmp_path / "x", "lora", [index < 80 for index in range(100)])
    write(tmp_path / "y", "ia3", [index >= 20 for index in range(100)])
    write(tmp_path / "y", "oft", [index < 70 for index in range(100)])
    for folders in ("xy", "yx"):
        comparison = compare(*(tmp_path / name for name in folders))
        first, second, third = comparison.rows
        assert (first.label, first.p_value, second.difference) == ("ia3", None, 0.0)
        assert third.tied, "against ia3; against lora, which is right wherever oft is, it is known to be worse"
        assert [*notes.verdicts(comparison)] == ["match: no winner; ia3 is tied with lora, oft"]
        assert next(notes.next_steps(comparison)).startswith("To tell oft from ia3 (-0.100)")


def test_a_row_is_not_tied_merely_because_its_seeds_lie_oddly(tmp_path: Path) -> None:
    """The seeds of ``far`` move it hardly more than other rows move, but by chance against those of the best row."""
    rng = random.Random(0)
    behind = {"best": 0.0, "near": 0.035, "far": 0.063} | {f"row-{number}": 0.1 for number in range(37)}
    for label, loss in behind.items():
        # Three seeds at equal angles on a circle do not change the mean of a row.
        angle = {"best": 0.0, "near": math.pi / 2, "far": math.pi}.get(label, rng.uniform(0, 2 * math.pi))
        radius = {"best": 1.3, "near": 1.0, "far": 1.3}.get(label, math.sqrt(rng.expovariate(1)))
        for seed in range(3):
            of_seed = 2.0 + loss + 0.003 * radius * math.cos(angle + seed * 2 * math.pi / 3)
            losses = [2 * (of_seed + rng.gauss(0, 0.002)) for _ in range(40)]  # of the two tokens of each answer
            write(tmp_path, label, [True] * 40, seed=seed, losses=losses)
    rows = {row.label: row for row in compare(tmp_path, sort="test_loss").rows}
    assert rows["far"].difference == pytest.approx(0.063, abs=0.002)
    assert rows["near"].difference == pytest.approx(0.035, abs=0.002)
    assert rows["near"].tied is False
    assert rows["far"].tied is False, "it is farther behind than a row that is called worse"


def test_rows_can_be_compared_with_a_named_row(tmp_path: Path) -> None:
    for label, share in (("a", 0.9), ("b", 0.7), ("c", 0.5)):
        write(tmp_path, label, answers(share))
    rows = {row.label: row for row in compare(tmp_path, against="b").rows}
    assert rows["a"].difference == pytest.approx(0.2, abs=0.06)
    assert rows["c"].difference == pytest.approx(-0.2, abs=0.06)
    assert rows["b"].difference == 0
    # The correction is for two comparisons with the named row, not for the three pairs.
    assert (rows["a"].p_value or 0) < (compare(tmp_path).rows[1].p_value or 0) * 3
    with pytest.raises(UserError, match="Did you mean 'b'"):
        compare(tmp_path, against="bb")


def test_differences_are_of_the_metric_that_rows_are_sorted_by(tmp_path: Path) -> None:
    write(tmp_path, "a", answers(0.5), losses=[1.0 + i / 100 for i in range(100)])
    write(tmp_path, "b", answers(0.9), losses=[2.0 + i / 100 for i in range(100)])
    first, second = compare(tmp_path, sort="test_loss").rows
    assert (first.label, second.rank_metric) == ("a", "test_loss")
    assert second.difference == pytest.approx(0.5)
    first, second = compare(tmp_path, sort="trainable_params").rows
    assert second.rank_metric == "exact_match"


def test_a_single_example_and_equal_answers_make_ties(tmp_path: Path) -> None:
    write(tmp_path / "one", "a", [True])
    (row,) = compare(tmp_path / "one").rows
    assert row.tied is False
    assert row.intervals["exact_match"][0] < 0.3
    assert "test_loss" not in row.intervals
    write(tmp_path / "one", "b", [False])
    assert [row.tied for row in compare(tmp_path / "one").rows] == [True, True], "one example cannot show a difference"
    for label in "abc":
        write(tmp_path / "ties", label, [True] * 40)
    assert [(row.tied, row.p_value) for row in compare(tmp_path / "ties").rows] == [(True, None), (True, 1), (True, 1)]


def test_failed_rows_and_rows_without_a_metric_are_compared(tmp_path: Path) -> None:
    for label in "ab":
        write(tmp_path / "failed", label, [True], status="failed", error="boom", metrics={})
    assert [row.status for row in compare(tmp_path / "failed").rows] == ["failed", "failed"]
    write(tmp_path / "some", "a", answers(0.9))
    write(tmp_path / "some", "b", answers(0.5), metrics={"test_loss": 1.5}, losses=[3.0] * 100)
    write(tmp_path / "some", "c", answers(0.5))
    rows = {row.label: row for row in compare(tmp_path / "some").rows}
    assert "exact_match" not in rows["b"].metrics
    assert rows["b"].tied is None
    assert rows["a"].tied is False
    assert rows["b"].ties == {"test_loss": False}


def test_without_the_answers_of_the_result_there_is_no_interval_and_no_tie(
    tmp_path: Path, adapterzoo: Callable[..., Result]
) -> None:
    for label, share in (("a", 0.9), ("b", 0.5), ("c", 0.5), ("d", 0.5)):
        write(tmp_path, label, answers(share))
    (tmp_path / "b" / "seed-0" / PREDICTIONS).unlink()
    damaged = tmp_path / "c" / "seed-0" / PREDICTIONS
    damaged.write_text(damaged.read_text()[:-20])
    incomplete = tmp_path / "d" / "seed-0" / PREDICTIONS
    incomplete.write_text("".join(incomplete.read_text().splitlines(keepends=True)[:50]))
    rows = {row.label: row for row in compare(tmp_path).rows}
    reasons = {"b": "it is missing", "c": "it is damaged", "d": "it is not what the run wrote"}
    for label, reason in reasons.items():
        assert rows[label].intervals == {}
        assert rows[label].tied is None
        assert rows[label].difference is not None
        assert rows[label].unproven[0].startswith("seed-0/predictions.jsonl does not show its exact_match, test_loss (")
        assert reason in rows[label].unproven[0]
    assert rows["a"].tied is None, "whether it wins is not known"
    assert rows["a"].unproven == []
    printed = adapterzoo("compare", tmp_path).stdout
    assert (
        "b: seed-0/predictions.jsonl does not show its exact_match, test_loss (it is missing): no interval" in printed
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": {**RECIPE, "train": {"steps": 20}}}, "train.steps: 10 there, 20 here"),
        ({"fingerprints": {**FINGERPRINTS, "test": "z"}}, "the test rows differ"),
        ({"fingerprints": {**FINGERPRINTS, "train": "z", "test": "y"}}, "the test rows differ"),
        ({"fingerprints": {**FINGERPRINTS, "weights": "z"}}, "the weights of the base model differ"),
        ({"environment": {**ENVIRONMENT, "packages": {"torch": "3"}}}, "packages.torch: '2' there, '3' here"),
        ({"environment": {**ENVIRONMENT, "device": "H100"}}, "device: 'cpu' there, 'H100' here"),
    ],
)
def test_rows_that_cannot_be_compared_are_in_separate_blocks_with_the_reason(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    write(tmp_path / "x", "a", answers(0.5))
    write(tmp_path / "y", "b", answers(0.9), **changes)
    comparison = compare(tmp_path / "x", tmp_path / "y")
    assert [[row.label for row in block.rows] for block in comparison.blocks] == [["a"], ["b"]]
    assert reason in comparison.blocks[1].differs
    assert comparison.rows[1].difference == 0, "it is the best row of its own block"
    record = json.loads(json.dumps(comparison.records()))
    assert [row["block"] for row in record["rows"]] == [0, 1]
    assert reason in record["blocks"][1]["differs"]


def test_settings_that_change_no_score_keep_rows_in_one_block(tmp_path: Path) -> None:
    write(tmp_path / "x", "a", answers(0.5))
    more = {**RECIPE, "evaluate": {"metrics": ["exact_match"], "shots": 4, "base": True}}
    slower = {**ENVIRONMENT, "threads": 2, "packages": {"torch": "2", "datasets": "9"}}
    write(tmp_path / "y", "b", answers(0.9), recipe=more, environment=slower)
    (block,) = compare(tmp_path / "x", tmp_path / "y").blocks
    assert block.costs_differ == ["threads: 1 and 2"]


def test_a_label_of_two_folders_is_one_row_if_only_the_seeds_differ(tmp_path: Path) -> None:
    write(tmp_path / "x", "a", answers(0.5), seed=0)
    write(tmp_path / "y", "a", answers(0.5, 1), seed=1)
    write(tmp_path / "z", "a", answers(0.5, 2), seed=2, options={"r": 64})
    write(tmp_path / "again", "a", answers(0.5), seed=0)
    assert [row.seeds for row in compare(tmp_path / "x", tmp_path / "y").rows] == [[0, 1]]
    assert {row.label for row in compare(tmp_path / "x", tmp_path / "z").rows} == {"a (x)", "a (z)"}
    assert {row.label for row in compare(tmp_path / "x", tmp_path / "again").rows} == {"a (x)", "a (again)"}
    assert [row.label for row in compare(tmp_path / "x", tmp_path / "x").rows] == ["a"], "the same folder twice"
    for folder in ("x", "y"):
        write(tmp_path / folder, "base", answers(0.1))
    assert sum(row.label == "base" for row in compare(tmp_path / "x", tmp_path / "y").rows) == 1


def test_results_of_schema_1_are_read_with_their_intervals() -> None:
    comparison = compare(FROZEN)
    rows = {row.label: row for row in comparison.rows}
    assert set(rows) == {"base", "base-2-shot", "lora", "ia3", "loha"}
    assert rows["lora"].seeds == [0, 1]
    assert rows["lora"].ties["test_loss"] is False, "lora has the lowest loss, as the only method that learned"
    assert rows["ia3"].tied
    assert comparison.blocks[0].fingerprints["data"]
    assert compare(FROZEN, FROZEN).rows[0].seeds == comparison.rows[0].seeds


def test_results_of_schema_2_are_read_with_their_base_as_the_quantization() -> None:
    comparison = compare(FROZEN_2)
    rows = {row.label: row for row in comparison.rows}
    assert {label: row.quantization for label, row in rows.items()} == {"lora": "none", "ia3": "none", "qlora": "nf4"}
    assert not any(row.unproven for row in rows.values())
    assert rows["lora"].intervals["test_loss"]
    assert rows["lora"].plugin


def test_results_of_schema_1_are_in_a_block_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "a", answers(0.5))
    comparison = compare(tmp_path, FROZEN)
    assert len(comparison.blocks) == 2
    assert comparison.blocks[1].differs


def test_the_cost_includes_all_seeds_with_training_and_measuring(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, "a", answers(0.5), seed=seed, train_seconds=900.0, evaluate_seconds=300.0)
    (row,) = compare(tmp_path, price=3.0).rows
    assert row.total_seconds == 2400
    assert row.cost == 2.0
    assert compare(tmp_path).rows[0].cost is None


def test_metrics_of_the_whole_split_have_intervals(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora, ia3")
    text = recipe.read_text().replace(
        "evaluate:", "evaluate:\n  metrics: [bleu, rouge, loss, perplexity, token_accuracy]"
    )
    recipe.write_text(text)
    adapterzoo("run", recipe, "--out", tmp_path / "out")
    for row in compare(tmp_path / "out").rows:
        # A metric that is 0 for every answer has no spread and so no interval.
        assert {"perplexity", "test_loss"} <= set(row.intervals)
        for name, (low, high) in row.intervals.items():
            assert low <= row.metrics[name] <= high


def test_rows_have_a_difference_to_a_named_row_without_answers_but_no_p_value(tmp_path: Path) -> None:
    for label, share in (("a", 0.9), ("b", 0.7), ("c", 0.5)):
        write(tmp_path, label, answers(share))
    (tmp_path / "b" / "seed-0" / PREDICTIONS).unlink()
    rows = {row.label: row for row in compare(tmp_path, against="b").rows}
    assert rows["a"].difference == pytest.approx(0.2, abs=0.06)
    assert rows["a"].p_value is None
    assert rows["a"].tied is None


def test_a_cell_that_failed_after_it_wrote_its_answers_has_no_metrics(tmp_path: Path) -> None:
    write(tmp_path, "lora", [True, False])
    write(tmp_path, "ia3", [True, True], status="failed", error="the loss on general text is nan")
    rows = compare(tmp_path).rows
    assert [row.label for row in rows] == ["lora", "ia3"]
    assert rows[1].metrics == {}


def test_a_best_row_that_is_behind_on_the_common_seeds_is_tied(tmp_path: Path) -> None:
    """Row a is best because of seed 1, which b does not have; on seed 0, which both have, a is behind."""
    write(tmp_path, "a", [i < 100 for i in range(200)])
    write(tmp_path, "a", [True] * 200, seed=1)
    write(tmp_path, "b", [i < 140 for i in range(200)])
    first, second = compare(tmp_path).rows
    assert (first.label, first.tied, second.tied) == ("a", True, True)


def test_unicode_line_separators_do_not_end_a_record(tmp_path: Path) -> None:
    result = write(tmp_path, "a", [True, False, True])
    lines = [json.loads(line) for line in (tmp_path / "a" / "seed-0" / PREDICTIONS).read_text().splitlines()]
    lines[1]["prompt"] = "one\u2028two\u0085three"
    Store(tmp_path).write(result, lines)
    assert compare(tmp_path).rows[0].unproven == []


def test_forgetting_on_different_texts_is_not_compared(tmp_path: Path) -> None:
    for label, text in (("a", "shipped"), ("b", "mine")):
        recipe = {**RECIPE, "evaluate": {"general_text": text}}
        result = write(
            tmp_path / label, label, [True] * 9, recipe=recipe, metrics={"exact_match": 1.0, "forgetting": 1.0}
        )
        lines = [{"index": i, "base_loss": 2.0, "loss": 3.0 + i / 10 - 0.4, "tokens": 1} for i in range(9)]
        Store(tmp_path / label).write(result, [], lines)
    rows = compare(tmp_path / "a", tmp_path / "b").rows
    assert all("forgetting" in row.intervals and row.ties.get("forgetting") is None for row in rows)


def test_rows_have_no_difference_to_a_row_of_another_table(tmp_path: Path) -> None:
    for label, share in (("a", 0.9), ("b", 0.5)):
        write(tmp_path / "one", label, answers(share))
    for label, share in (("c", 0.9), ("d", 0.5)):
        write(tmp_path / "two", label, answers(share), fingerprints={**FINGERPRINTS, "test": "others"})
    rows = {row.label: row for row in compare(tmp_path / "one", tmp_path / "two", against="b").rows}
    assert rows["a"].difference is not None
    assert rows["d"].difference is None
    assert rows["d"].tied is None
    assert rows["d"].ties["exact_match"] is False


def test_intervals_of_whole_split_metrics_are_bounded_and_count_the_examples(tmp_path: Path) -> None:
    right = [i % 30 != 0 for i in range(300)]
    total = metrics()["bleu"].total
    assert total is not None
    value = total(["yes"] * 300, ["yes" if is_right else "no" for is_right in right])
    write(tmp_path, "a", right, metrics={"bleu": value})
    row = compare(tmp_path).rows[0]
    assert row.examples == 300
    assert 0 < row.intervals["bleu"][0] < row.intervals["bleu"][1] <= 100
    write(tmp_path / "few", "a", [True] * 10, losses=[1.0] * 8 + [30.0] * 2, metrics={"perplexity": math.exp(68 / 20)})
    assert compare(tmp_path / "few").rows[0].intervals["perplexity"][0] == 1.0


def test_a_failed_base_is_replaced_by_the_base_of_another_folder(tmp_path: Path) -> None:
    write(tmp_path / "x", "base", [True], status="failed", error="no", metrics={})
    write(tmp_path / "y", "base", [True, False])
    for order in (("x", "y"), ("y", "x")):
        rows = compare(*(tmp_path / name for name in order)).rows
        assert [(row.label, row.status) for row in rows] == [("base", "ok")]


def test_a_failed_seed_joins_the_row_of_its_label_and_the_tuning_of_all_folders_counts(tmp_path: Path) -> None:
    def tuning(seconds: float) -> dict[str, object]:
        trial = {"settings": {"r": 8}, "metric": "m", "score": 1.0, "loss": 1.0, "seconds": seconds, "error": None}
        return {"metric": "m", "trials": [trial], "chosen": {"r": 8}, "space": {}}

    write(tmp_path / "x", "a", [True, False], tuning=tuning(1000.0))
    write(tmp_path / "y", "a", [True, False], seed=1, tuning=tuning(5000.0))
    write(tmp_path / "y", "a", [True], seed=2, status="failed", error="no", metrics={}, learning_rate=3.0)
    for order in (("x", "y"), ("y", "x")):
        (row,) = compare(*(tmp_path / name for name in order)).rows
        assert row.total_seconds == 6000
        assert row.error == "seed 2: no"


def test_rows_without_a_value_are_last_and_unordered_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "base", [True, False])
    write(tmp_path, "large", [True, False], trainable_params=9)
    write(tmp_path, "small", [True, False], trainable_params=5)
    write(tmp_path, "failed", [True], status="failed", error="no", metrics={}, trainable_params=1)
    labels = [row.label for row in compare(tmp_path, sort="trainable_params").rows]
    assert labels == ["small", "large", "base", "failed"]
    for column in ("difference", "p_value", "tied"):
        with pytest.raises(UserError, match="there is no such column"):
            compare(tmp_path, sort=column)


def test_rows_with_another_evaluation_interval_are_apart_if_the_scheduler_uses_it(tmp_path: Path) -> None:
    for name, steps in (("x", 1), ("y", 30)):
        train = {"scheduler": "reduce_lr_on_plateau", "eval_steps": steps}
        write(tmp_path / name, "a", [True], recipe={**RECIPE, "train": train})
    blocks = compare(tmp_path / "x", tmp_path / "y").blocks
    assert blocks[1].differs == ["train.eval_steps: 1 there, 30 here"]


def test_every_format_lists_the_missing_cells_of_a_stopped_run(
    tmp_path: Path, adapterzoo: Callable[..., Result]
) -> None:
    Store(tmp_path).begin({}, {}, [(label, seed) for seed in (0, 1, 2) for label in ("lora", "ia3")])
    write(tmp_path, "lora", [True, False])
    write(tmp_path, "lora", [True, True], seed=1)
    note = f"{tmp_path}: not finished: no result yet for ia3, lora (seed 2)"
    for style in ("table", "markdown", "html"):
        printed = adapterzoo("compare", tmp_path, "--format", style).stdout
        assert note in " ".join(re.sub(r"<[^>]*>|\*\*|\\", "", printed).split()), style
    printed = json.loads(adapterzoo("compare", tmp_path, "--json").stdout)
    assert printed["unfinished"] == {str(tmp_path): {"lora": [2], "ia3": [0, 1, 2]}}
    write(tmp_path, "lora", [True, True], seed=2)
    for seed in range(3):
        write(tmp_path, "ia3", [True, True], seed=seed)
    assert "not finished" not in adapterzoo("compare", tmp_path).stdout


@pytest.mark.parametrize("cells", [None, "lora", [["lora"]], [["lora", "x"]], [[{}, 0]]])
def test_damaged_lists_of_cells_are_ignored(tmp_path: Path, cells: object) -> None:
    write(tmp_path, "lora", [True])
    (tmp_path / ".adapterzoo.json").write_text(json.dumps({"cells": cells}))
    assert compare(tmp_path).unfinished == {}


def test_two_formats_at_once_and_columns_without_values_are_refused(
    tmp_path: Path, adapterzoo: Callable[..., Result]
) -> None:
    write(tmp_path, "lora", [True])
    for arguments, message in (
        (("--json", "--format", "csv"), "--json: contradicts --format csv. Give one of them."),
        (("--sort", "cost"), "--sort cost: no row has a value in this column. Give --price too."),
        (("--sort", "tune_seconds"), "--sort tune_seconds: no row has a value in this column."),
    ):
        refused = adapterzoo("compare", tmp_path, *arguments)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert adapterzoo("compare", tmp_path, "--json", "--format", "json").exit_code == 0


def test_an_error_names_damaged_tuning(tmp_path: Path) -> None:
    write(tmp_path, "a", [True])
    path = tmp_path / "a" / "seed-0" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tuning": {"trials": [{"score": "good"}]}}))
    with pytest.raises(UserError, match="is damaged: wrong values of tuning"):
        compare(tmp_path)


def test_the_folder_decides_label_and_seed(tmp_path: Path) -> None:
    """People rename and copy folders by hand, and a label in a result must not lead to files elsewhere."""
    write(tmp_path, "a", answers(0.5), seed=0)
    shutil.copytree(tmp_path / "a", tmp_path / "copied")
    shutil.copytree(tmp_path / "a" / "seed-0", tmp_path / "a" / "seed-7")
    path = tmp_path / "copied" / "seed-0" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "label": "../../elsewhere", "digest": None}))
    rows = {row.label: row for row in compare(tmp_path).rows}
    assert set(rows) == {"a", "copied"}
    assert rows["a"].seeds == [0, 7]
    assert rows["copied"].intervals


def test_losses_that_are_nan_are_left_out_and_metrics_that_are_nan_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", [True, False], history=[{"step": 1.0, "loss": float("nan")}, {"step": 2.0, "loss": 1.0}])
    assert json.loads(json.dumps(compare(tmp_path).records(), allow_nan=False))["rows"][0]["history"][0] == {"step": 1}
    path = tmp_path / "a" / "seed-0" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {"exact_match": float("nan")}}))
    with pytest.raises(UserError, match=r"is damaged: wrong values of metrics\.exact_match"):
        compare(tmp_path)


@pytest.mark.parametrize("price", [float("nan"), float("inf"), 0.0])
def test_a_price_must_be_a_positive_number(tmp_path: Path, price: float) -> None:
    write(tmp_path, "a", [True])
    with pytest.raises(UserError, match="is no price of an hour"):
        compare(tmp_path, price=price)


def test_folders_with_different_bases_are_in_separate_blocks_in_any_order(tmp_path: Path) -> None:
    """The methods were trained on different base models, so their rows are not ranked and their seeds not averaged."""
    for seed, (folder, right) in enumerate((("x", [1, 1, 0, 0]), ("y", [1, 0, 0, 0]), ("z", [1, 1, 0, 0]))):
        write(tmp_path / folder, "base", [bool(value) for value in right])
        write(tmp_path / folder, "lora", [True, True, True, False], seed=seed)
    for order in (("x", "y", "z"), ("y", "z", "x")):
        comparison = compare(*(tmp_path / name for name in order))
        bases = [row.metrics["exact_match"] for row in comparison.rows if row.label == "base"]
        assert sorted(bases) == [0.25, 0.5]
        assert sorted(tuple(sorted(row.seeds)) for row in comparison.rows if row.label == "lora") == [(0, 2), (1,)]
        assert len(comparison.blocks) == 2
        assert "base: exact_match is " in comparison.blocks[1].differs[0]
    assert len(compare(tmp_path / "x", tmp_path / "z").blocks) == 1


def test_bases_on_other_machines_may_differ_by_rounding(tmp_path: Path) -> None:
    for folder, threads, loss in (("x", 1, 4.0), ("y", 2, 4.01), ("z", 2, 4.4)):
        environment = {**ENVIRONMENT, "threads": threads}
        write(tmp_path / folder, "base", [False, False], losses=[loss, loss], environment=environment)
    assert len(compare(tmp_path / "x", tmp_path / "y").blocks) == 1
    assert len(compare(tmp_path / "x", tmp_path / "z").blocks) == 2


def test_the_order_of_kept_answers_does_not_matter_but_each_must_be_there_once(tmp_path: Path) -> None:
    rng = random.Random(0)
    right = {"a": [rng.random() < 0.7 for _ in range(60)], "b": [rng.random() < 0.5 for _ in range(60)]}
    for label, answers in right.items():
        for seed in (0, 1):
            write(tmp_path, label, answers, seed=seed)
    before = compare(tmp_path).records()
    for path in tmp_path.rglob("predictions.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        rng.shuffle(lines)
        path.write_text("".join(lines))
    assert compare(tmp_path).records() == before
    # With an example twice, missing, or under another's index, the file shows no metric.
    path = tmp_path / "a" / "seed-0" / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    swapped = [line.replace('"index": 3,', '"index": ?,').replace('"index": 4,', '"index": 3,') for line in lines]
    swapped = [line.replace('"index": ?,', '"index": 4,') for line in swapped]
    infinite = [line.replace('"index": 0,', '"index": Infinity,') for line in lines]
    for changed in (
        infinite,
        swapped,
        [*lines, lines[0]],
        [line.replace('"index": 3,', '"index": 60,') for line in lines],
    ):
        path.write_text("".join(changed))
        (row,) = (row for row in compare(tmp_path).rows if row.label == "a")
        (reason,) = row.unproven
        assert reason.startswith("seed-0/predictions.jsonl does not show its exact_match, test_loss (")
        assert row.p_value is None


def test_rows_with_another_version_of_a_metric_package_are_in_separate_blocks(tmp_path: Path) -> None:
    for label, version in (("a", "1.0"), ("b", "2.0")):
        packages = {**ENVIRONMENT["packages"], "my-metrics": version}
        write(tmp_path, label, [True, False], environment={**ENVIRONMENT, "packages": packages})
    blocks = compare(tmp_path).blocks
    assert len(blocks) == 2
    assert blocks[1].differs == ["packages.my-metrics: '1.0' there, '2.0' here"]


def test_a_field_that_rows_and_results_share_is_carried_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class WiderResult(results.Result):
        optimizer: str = ""
        watts: float | None = None

    @dataclass
    class WiderRow(Row):
        optimizer: str = ""
        watts: float | None = field(default=None, metadata=MEAN)

    monkeypatch.setattr(evidence, "Row", WiderRow)
    watts = {0: 50.0, 1: 70.0, 2: None}
    cells = [
        evidence.StoredResult(
            tmp_path,
            tmp_path,
            WiderResult("a", "lora", seed, "none", metrics={"bleu": 1.0}, optimizer="adamw", watts=watts[seed]),
        )
        for seed in watts
    ]
    row = evidence.collect_evidence("a", cells).row
    assert isinstance(row, WiderRow)
    assert row.optimizer == "adamw", "the same for all seeds"
    assert row.watts == 60.0, "the mean over the seeds that have it"
