"""Check tuning: every method gets the same settings, the validation rows choose, and trials are kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from math import log10
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from forked import Forked

from adapterzoo.errors import AdapterzooError
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.prepare.settings import points
from adapterzoo.recipe.tune import Range
from adapterzoo.running.tuning import JOURNAL, TrialScore, tune

TUNE = "tune:\n  learning_rate: {low: 1e-4, high: 1e-1, trials: 4}\n"
RATE = Range(low=1e-5, high=1e-2)


def cell(**changes: Any) -> MethodCell:
    settings: dict[str, Any] = {"learning_rate": 3e-4, "ranges": {"learning_rate": RATE}, "trials": 5}
    return MethodCell(label="lora", method="lora", quantization="none", **{**settings, **changes})


def peak(trial: MethodCell, number: int) -> TrialScore:
    """Return a score that is best with a learning rate of 1e-3."""
    distance = abs(3 + log10(trial.learning_rate or 1))
    return TrialScore("exact_match", 1 - distance, distance)


def test_all_methods_get_the_same_points_after_their_own_default() -> None:
    first, second = points(cell()), points(cell(learning_rate=5e-3))
    assert len(first) == len(second) == 5
    assert first[0] == {"learning_rate": 3e-4}
    assert second[0] == {"learning_rate": 5e-3}
    assert first[1:] == second[1:]
    rates = sorted(point["learning_rate"] for point in first[1:])
    assert all(
        low < rate < high
        for rate, low, high in zip(rates, (1e-5, 4e-5, 2e-4, 1e-3), (7e-5, 4e-4, 2e-3, 1e-2), strict=True)
    )
    assert points(cell(learning_rate=1.0))[0] != {"learning_rate": 1.0}, "a default outside the range is left out"


def test_a_range_may_have_whole_numbers_or_a_list_of_values() -> None:
    ranges = {"r": Range(low=2, high=5), "dropout": Range(values=[0.0, 0.1])}
    found = points(cell(ranges=ranges, options={"r": 8, "dropout": 0.0}, trials=30))
    assert len(found) == 8, "the ranges have only 8 different settings"
    assert {point["r"] for point in found} == {2, 3, 4, 5}


def test_the_setting_with_the_best_validation_score_is_chosen(tmp_path: Path) -> None:
    found = tune(cell(), tmp_path, False, peak)
    assert len(found["trials"]) == 5
    best = max(found["trials"], key=lambda trial: trial["score"] or -9)
    assert found["chosen"] == best["settings"]
    assert found["metric"] == "exact_match"
    lower = tune(cell(learning_rate=4e-4), tmp_path, True, peak)
    assert lower["chosen"] != found["chosen"]


def test_equal_scores_are_decided_by_the_loss(tmp_path: Path) -> None:
    found = tune(cell(), tmp_path, False, lambda trial, n: TrialScore("m", 0.5, peak(trial, n).loss))
    best = min(found["trials"], key=lambda trial: trial["loss"] or 9)
    assert found["chosen"] == best["settings"]


def test_a_setting_that_fails_is_a_failed_trial_and_does_not_end_tuning(tmp_path: Path) -> None:
    def fails(trial: MethodCell, number: int) -> TrialScore:
        if (trial.learning_rate or 0) > 1e-3:
            raise AdapterzooError("the loss became nan")
        return peak(trial, number)

    found = tune(cell(), tmp_path, False, fails)
    failed = [trial for trial in found["trials"] if trial["score"] is None]
    assert len(found["trials"]) == 5
    assert failed
    assert failed[0]["error"] == "AdapterzooError: the loss became nan"

    def never(trial: MethodCell, number: int) -> TrialScore:
        raise AdapterzooError("no")

    with pytest.raises(AdapterzooError, match="all 5 trials failed, the last one: AdapterzooError: no"):
        tune(cell(learning_rate=2e-4), tmp_path, False, never)


def test_finished_trials_are_not_run_again(tmp_path: Path) -> None:
    tried: list[float | None] = []

    def stops(trial: MethodCell, number: int) -> TrialScore:
        tried.append(trial.learning_rate)
        if len(tried) == 3:
            raise KeyboardInterrupt
        return peak(trial, number)

    with pytest.raises(KeyboardInterrupt):
        tune(cell(), tmp_path, False, stops)
    found = tune(cell(), tmp_path, False, stops)
    assert len(tried) == 6, "only the trial that was stopped is run again"
    whole = tune(cell(), tmp_path / "whole", False, peak)

    def known(tuning: Any) -> list[Any]:
        return sorted((trial["settings"]["learning_rate"], trial["score"]) for trial in tuning["trials"])

    assert known(found) == known(whole)
    assert found["chosen"] == whole["chosen"]
    assert tune(cell(), tmp_path, False, stops) == found
    assert len(tried) == 6


def test_a_run_tunes_by_the_validation_rows_and_reports_it(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora, ia3", extra=TUNE + "seeds: [0, 1]\n")
    done = adapterzoo("run", recipe, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    results = {
        (label, seed): json.loads((tmp_path / "out" / label / f"seed-{seed}" / "result.json").read_text())
        for label in ("lora", "ia3")
        for seed in (0, 1)
    }
    for (label, _), result in results.items():
        assert len(result["tuning"]["trials"]) == 4
        assert result["learning_rate"] == result["tuning"]["chosen"]["learning_rate"]
        assert result["tuning"] == results[label, 0]["tuning"], "tuned once for all seeds"
        losses = [trial["loss"] for trial in result["tuning"]["trials"]]
        assert len(set(losses)) == 4
        assert result["metrics"]["test_loss"] not in losses, "the losses of trials are those of validation rows"
    assert not list((tmp_path / "out").rglob("trial"))
    note = r"lora: learning_rate \S+ chosen from 4 settings by exact_match on the validation rows"
    assert re.search(note, done.stdout)
    again = adapterzoo("run", recipe, "--out", tmp_path / "out")
    assert "already done" in again.stderr
    assert "training" not in again.stderr
    refused = adapterzoo("run", recipe, "--out", tmp_path / "out", "--set", "tune.learning_rate.trials=5")
    assert refused.exit_code == 2
    assert "holds the results of another recipe (tune.learning_rate.trials: 4 there, 5 here)" in refused.stderr


def test_seeds_that_are_run_later_have_the_same_settings(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora", extra=TUNE + "seeds: [3, 1]\n")
    first = adapterzoo("run", recipe, "--seed", "1", "--out", tmp_path / "out")
    second = adapterzoo("run", recipe, "--seed", "3", "--seed", "8", "--out", tmp_path / "out")
    assert "trial" in first.stderr
    assert "trial" not in second.stderr
    assert second.exit_code == 0, second.stderr
    results = [json.loads(path.read_text()) for path in (tmp_path / "out" / "lora").glob("seed-*/result.json")]
    assert len(results) == 3
    assert len({result["learning_rate"] for result in results}) == 1


def test_a_tuned_row_equals_a_row_trained_with_the_chosen_settings(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    """The trials leave no trace in the row that is trained after them."""
    adapterzoo("run", write_recipe("lora", extra=TUNE), "--out", tmp_path / "tuned")
    tuned = json.loads((tmp_path / "tuned" / "lora" / "seed-0" / "result.json").read_text())
    recipe = write_recipe("lora", name="plain.yaml")
    adapterzoo("run", recipe, "--out", tmp_path / "plain", "--set", f"train.learning_rate={tuned['learning_rate']}")
    plain = json.loads((tmp_path / "plain" / "lora" / "seed-0" / "result.json").read_text())
    assert plain["metrics"] == tuned["metrics"]
    assert plain["history"] == tuned["history"]


def test_a_killed_run_goes_on_with_its_unfinished_trial(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe, out = write_recipe("lora", extra=TUNE, steps="60"), tmp_path / "out"
    command = [sys.executable, "-m", "adapterzoo", "run", str(recipe), "--out", str(out)]
    process = Forked(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "trial 3" in line:
            time.sleep(0.1)
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (out / "lora" / JOURNAL).is_file()
    again = Forked(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert "trial 1:" not in said
    trials = json.loads((out / "lora" / "seed-0" / "result.json").read_text())["tuning"]["trials"]
    assert len({trial["settings"]["learning_rate"] for trial in trials}) == len(trials) == 4


@pytest.mark.parametrize(
    ("methods", "tune", "message"),
    [
        ("lora", "learning_rate: {low: 1}", "needs low and high, or values"),
        ("lora", "r: {values: [4, 4]}", "has the same value twice"),
        ("lora", "learning_rate: {low: 2, high: 1}", "has a low that is not below high"),
        ("lora", "learning_rate: {low: -1, high: 1}", "a learning rate is a number above 0"),
        ("lora", "learning_rate: {values: [fast]}", "a learning rate is a number above 0"),
        ("lora", "learning_rate: {low: 1e-5, high: 1, trials: 0}", "greater than or equal to 1"),
        ("lora", "learning_rat: {low: 1e-5, high: 1}", "Did you mean 'learning_rate'"),
        ("lora", "r: {values: [0, 8]}", "lora refuses r = 0"),
        ("{name: lora, r: 4}", "r: {values: [4, 8]}", "'r' is also set for lora"),
        ("{name: lora, learning_rate: 1e-4}", "learning_rate: {low: 1e-5, high: 1}", "is also set for lora"),
        (
            "lora",
            "{learning_rate: {values: [1e-4], trials: 2}, r: {values: [4], trials: 3}}",
            "has different numbers of trials: 2, 3",
        ),
        ("lora", "r: {values: [4, 8]}\nbudget: {trainable_params: 5k}", "'r' of lora is set by the budget"),
    ],
)
def test_mistakes_are_reported_with_their_line(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None, methods: str, tune: str,
    message: str,
) -> None:  # fmt: skip
    refused = adapterzoo("check", write_recipe(methods, extra=f"tune:\n  {tune}\n"))
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert re.search(r"recipe.yaml:\d+", refused.stderr)


@pytest.mark.parametrize("lines", range(1, 9))
def test_tuning_continues_a_journal_that_ends_after_any_line(tmp_path: Path, lines: int) -> None:
    """Every trial is run once, in the same order, and the same settings are chosen."""
    whole = tune(cell(), tmp_path / "whole", False, peak)
    folder = tmp_path / "cut"
    folder.mkdir()
    journal = (tmp_path / "whole" / JOURNAL).read_text().splitlines(keepends=True)
    (folder / JOURNAL).write_text("".join(journal[:lines]))
    (folder / f"{JOURNAL}.lock").symlink_to("nowhere")
    found = tune(cell(), folder, False, peak)
    trials = [[{**trial, "seconds": 0} for trial in tuning["trials"]] for tuning in (whole, found)]
    assert trials[0] == trials[1]
    assert found["chosen"] == whole["chosen"]


@pytest.mark.parametrize("missing", [1, 5, 60])
def test_tuning_continues_a_journal_whose_last_line_is_cut(tmp_path: Path, missing: int) -> None:
    """A kill or a full disk leaves a part of a line, to which the next one would be joined."""
    whole = tune(cell(), tmp_path / "whole", False, peak)
    folder, tried = tmp_path / "cut", list[int]()
    folder.mkdir()
    (folder / JOURNAL).write_bytes((tmp_path / "whole" / JOURNAL).read_bytes()[:-missing])
    found = tune(cell(), folder, False, lambda trial, number: (tried.append(number), peak(trial, number))[1])
    assert tried == [4], "only the last trial is run again"
    assert found["chosen"] == whole["chosen"]
    assert tune(cell(), folder, False, peak)["trials"] == found["trials"], "and it can be read again"


def test_a_score_that_is_not_finite_is_a_failed_trial(tmp_path: Path) -> None:
    def overflows(trial: MethodCell, number: int) -> TrialScore:
        if number == 1:
            return TrialScore("perplexity", float("inf"), float("nan"))
        return peak(trial, number)

    trials = tune(cell(), tmp_path, False, overflows)["trials"]
    assert [number for number, trial in enumerate(trials) if trial["score"] is None] == [1]
    assert "perplexity is inf" in (trials[1]["error"] or "")


def test_another_run_tries_a_failed_setting_again(tmp_path: Path) -> None:
    def fails(trial: MethodCell, number: int) -> TrialScore:
        raise MemoryError

    with pytest.raises(AdapterzooError, match="all 5 trials failed"):
        tune(cell(), tmp_path, False, fails)
    assert all(trial["score"] is not None for trial in tune(cell(), tmp_path, False, peak)["trials"])


def test_an_option_gets_the_same_values_whatever_other_options_a_method_has() -> None:
    both = {"lora_dropout": Range(low=0.0, high=0.5), "learning_rate": RATE}
    names = ("learning_rate", "lora_dropout")
    with_dropout = points(cell(ranges=both, tuned=names, learning_rate=1.0))
    without = points(cell(ranges={"learning_rate": RATE}, tuned=names, learning_rate=1.0))
    assert [point["learning_rate"] for point in with_dropout] == [point["learning_rate"] for point in without]


def test_the_recipe_that_a_tuned_run_keeps_can_be_run_again(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    extra = "tune:\n  lora_dropout: {values: [0.0, 0.1]}\nbudget: {trainable_params: 20k}\n"
    first = adapterzoo("run", write_recipe("lora, ia3", extra=extra), "--out", tmp_path / "out")
    assert first.exit_code == 0, first.stderr
    again = adapterzoo("run", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "out")
    assert again.exit_code == 0, again.stderr
    assert "already done" in again.stderr


def test_a_setting_must_work_and_must_not_change_the_size_that_the_budget_sets(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    budget = "budget: {trainable_params: 20k}\n"
    modules = "tune:\n  target_modules: {values: [all-linear, .*q_proj]}\n"
    refused = adapterzoo("check", write_recipe("lora", extra=budget + modules))
    assert refused.exit_code == 2
    assert "target_modules .*q_proj changes the size, which the budget sets" in refused.stderr
    refused = adapterzoo("check", write_recipe("lora", extra="tune:\n  target_modules: {values: [q_prog, q_proj]}\n"))
    assert refused.exit_code == 2
    assert "does not match the whole name of any layer" in refused.stderr
    fine = adapterzoo(
        "check", write_recipe("{name: adalora, init_r: 32}", extra="tune:\n  target_r: {values: [16, 24]}\n")
    )
    assert fine.exit_code == 0, fine.stderr


def test_validation_rows_that_are_also_test_rows_are_refused(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None, tmp_path: Path
) -> None:
    for name, first in (("train", 0), ("validation", 20), ("test", 25)):
        rows = [f"question {i},answer {i}\n" for i in range(first, first + 10)]
        (tmp_path / f"{name}.csv").write_text("verb,past\n" + "".join(rows))
    parts = ", ".join(f"{name}: [{tmp_path}/{name}.csv]" for name in ("train", "validation", "test"))
    recipe = write_recipe("lora", extra=TUNE, split=f"{{{parts}}}")
    recipe.write_text(re.sub(r"  source: .*\n", "", recipe.read_text()))
    refused = adapterzoo("check", recipe)
    assert refused.exit_code == 2
    assert "5 of 10 validation rows are in test too: settings would be chosen by test rows" in refused.stderr
    dropped = adapterzoo("check", recipe, "--set", "data.split.duplicates=drop")
    assert dropped.exit_code == 0, dropped.stderr
    assert "5 validation, 10 test rows" in dropped.stdout


@pytest.mark.parametrize("name", ["[lora]", "{a: 1}", "null"])
def test_a_method_name_that_is_not_a_text_is_reported_with_its_line(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None, name: str
) -> None:
    refused = adapterzoo("check", write_recipe(f"{{name: {name}}}", extra=TUNE))
    assert refused.exit_code == 2
    assert re.search(r"recipe.yaml:\d+", refused.stderr)


def test_tuning_needs_validation_rows(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    recipe = write_recipe("lora", extra=TUNE, split="{train: 0.8, validation: 0, test: 0.2}")
    refused = adapterzoo("check", recipe)
    assert refused.exit_code == 2
    assert "tune: there are no validation rows to choose by. Give split.validation a share." in refused.stderr


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    tune(cell(), tmp_path, False, peak)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code": 6, "worker\n{}\n')
    with pytest.raises(AdapterzooError, match=r"tuning\.journal is damaged\. Remove it"):
        tune(cell(), tmp_path, False, peak)


def test_a_changed_digit_in_the_journal_does_not_change_the_choice(tmp_path: Path) -> None:
    """The trial is run again, or the journal is reported as damaged."""
    whole = tune(cell(), tmp_path / "whole", False, peak)
    journal = (tmp_path / "whole" / JOURNAL).read_text()
    digits = [at for at, letter in enumerate(journal) if letter.isdigit()]
    for number, at in enumerate(digits[:: len(digits) // 60]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / JOURNAL).write_text(journal[:at] + str((int(journal[at]) + 5) % 10) + journal[at + 1 :])
        found = whole
        with suppress(AdapterzooError):  # the journal is reported as damaged
            found = tune(cell(), folder, False, peak)
        assert found["chosen"] == whole["chosen"]
        assert [trial["score"] for trial in found["trials"]] == [trial["score"] for trial in whole["trials"]]


def test_another_version_of_a_plugin_has_its_own_trials(tmp_path: Path) -> None:
    tried: list[int] = []

    def counting(trial: MethodCell, number: int) -> TrialScore:
        tried.append(number)
        return peak(trial, number)

    for version, expected in (("p 1.0", 5), ("p 1.0", 0), ("p 2.0", 5)):
        tried.clear()
        tune(cell(plugin=version), tmp_path, False, counting)
        assert len(tried) == expected
