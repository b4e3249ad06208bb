from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_the_smallest_difference_that_can_be_shown(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    said = adapterzoo("check", write_recipe("lora, ia3"), "--difference", "0.05").stdout
    found = re.search(
        r"8 test examples and 1 seed can show a difference of (0\.\d+) in exact_match to a row named beforehand "
        r"\(--against\), of (0\.\d+) between any two of 4 rows",
        said,
    )
    assert found, said
    assert 0.8 < float(found[1]) < float(found[2]), "eight answers of which nearly all must differ"
    assert "with one seed, intervals are over the examples alone: another seed may lie outside" in said
    takes = re.search(
        r"a difference of 0.05 to a row named beforehand takes (\d+) test examples; between any two, ([\d,]+)", said
    )
    assert takes, said
    assert 700 < int(takes[1]) < int(takes[2].replace(",", "")) < 1100


def test_of_a_metric_that_is_no_share_it_is_in_standard_deviations(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    recipe = write_recipe("lora")
    recipe.write_text(recipe.read_text().replace("evaluate:\n", "evaluate:\n  metrics: [rouge, loss]\n"))
    said = adapterzoo("check", recipe).stdout
    assert "standard deviations of the difference between two methods' scores of an example in rouge" in said


def test_more_seeds_show_more_and_what_they_change_is_said(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    recipe = write_recipe("lora, ia3")
    one = adapterzoo("check", recipe).stdout
    three = adapterzoo("check", recipe, "--seed", "0", "--seed", "1", "--seed", "2", "--difference", "0.01").stdout
    assert "seed 0: one draw of how adapters begin, and one order of the rows, the same for every method" in one
    assert "seeds 0, 1, 2: each begins with other adapters and orders the rows anew" in three
    assert re.search(r"a difference of 0.01 to a row named beforehand takes [\d,]+ test examples and \d+ seeds", three)
    nothing = adapterzoo("check", recipe, "--difference", "nan")
    assert nothing.exit_code == 2
    assert "--difference nan: is no difference. Give a number above 0." in nothing.stderr
    refused = adapterzoo("check", recipe, "--difference", "2")
    assert refused.exit_code == 2
    assert "--difference 2: shares of answers never differ so much. Give one below 1." in refused.stderr
    smallest = [float(re.findall(r"can show a difference of (0\.\d+)", said)[0]) for said in (one, three)]
    assert smallest[1] < smallest[0]


def test_what_is_tuned_is_in_the_plan(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    said = adapterzoo("check", write_recipe("lora, ia3", extra="tune:\n  r: {values: [2, 4, 8], trials: 3}\n")).stdout
    assert "tuning: 3 settings of r for each method, 3 trainings more" in said
    assert "judged by exact_match on 8 validation rows" in said
    assert "not tuned, for want of such options: ia3" in said
    fewer = adapterzoo("check", write_recipe("lora, ia3", extra="tune:\n  learning_rate: {values: [1e-4, 2e-4]}\n"))
    assert "tuning: 2 settings of learning_rate for each method, 4 trainings more" in fewer.stdout


def test_what_does_not_fit_is_said(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.machine import memory

    monkeypatch.setattr(memory, "available", lambda: 400_000)
    said = adapterzoo("check", write_recipe("full, ia3")).stdout
    assert re.search(r"full needs at least 1\.\d+MB, and 400kB are free", said)
    assert "ia3 needs" not in said
