"""Check what ``adapterzoo check`` prints about differences, seeds, tuning and memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tiny import METHODS


def test_the_smallest_difference_that_can_be_shown(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    printed = adapterzoo("check", write_recipe("lora, ia3"), "--difference", "0.05").stdout
    shown = re.search(
        r"8 test examples and 1 seed can show a difference of (0\.\d+) in exact_match to a row named before the run "
        r"\(--against\), and of (0\.\d+) between any two of 4 rows",
        printed,
    )
    assert shown, printed
    assert 0.8 < float(shown[1]) < float(shown[2]), "nearly all of eight answers must differ"
    assert (
        "with one seed, intervals are over the test examples only: the score of another seed may be outside" in printed
    )
    needed = re.search(
        r"a difference of 0.05 to a row named before the run needs (\d+) test examples; "
        r"between any two rows, it needs ([\d,]+)",
        printed,
    )
    assert needed, printed
    assert 700 < int(needed[1]) < int(needed[2].replace(",", "")) < 1100


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (
            "lora, ia3, oft",
            r"1 seed can show a difference of 0\.9\d+ in exact_match .*, and none between any two of 5 rows",
        ),
        (", ".join(METHODS), "8 test examples and 1 seed can show no difference in exact_match, however large"),
    ],
)
def test_no_difference_can_be_shown_with_too_few_examples(
    methods: str, expected: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    printed = adapterzoo("check", write_recipe(methods)).stdout
    assert re.search(expected, printed), printed
    assert ("of such runs show a difference of that size" in printed) == ("a difference of 0." in printed)


def test_the_difference_of_a_metric_that_is_not_a_share_is_in_standard_deviations(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    recipe = write_recipe("lora")
    recipe.write_text(recipe.read_text().replace("evaluate:\n", "evaluate:\n  metrics: [rouge, loss]\n"))
    printed = adapterzoo("check", recipe).stdout
    assert "standard deviations (of the difference between two methods' scores of an example) in rouge" in printed


def test_more_seeds_show_smaller_differences(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    recipe = write_recipe("lora, ia3")
    one_seed = adapterzoo("check", recipe).stdout
    three_seeds = adapterzoo(
        "check", recipe, "--seed", "0", "--seed", "1", "--seed", "2", "--difference", "0.01"
    ).stdout
    assert "seed 0 decides the initial weights of the adapters and the order of the rows, for every method" in one_seed
    assert "seeds 0, 1, 2: each gives every method other initial weights and another order of the rows" in three_seeds
    assert re.search(
        r"a difference of 0.01 to a row named before the run needs [\d,]+ test examples and \d+ seeds", three_seeds
    )
    no_number = adapterzoo("check", recipe, "--difference", "nan")
    assert no_number.exit_code == 2
    assert "--difference nan: is not a difference. Give a number above 0." in no_number.stderr
    refused = adapterzoo("check", recipe, "--difference", "2")
    assert refused.exit_code == 2
    assert "--difference 2: is too large for shares of right answers. Give a number below 1." in refused.stderr
    smallest = [
        float(re.findall(r"can show a difference of (0\.\d+)", printed)[0]) for printed in (one_seed, three_seeds)
    ]
    assert smallest[1] < smallest[0]


def test_the_plan_shows_what_is_tuned(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    printed = adapterzoo(
        "check", write_recipe("lora, ia3", extra="tune:\n  r: {values: [2, 4, 8], trials: 3}\n")
    ).stdout
    assert "tuning: 3 settings of r for each method, 3 more trainings" in printed
    assert "scored by exact_match on 8 validation rows" in printed
    assert "not tuned, because they have no such option: ia3" in printed
    fewer = adapterzoo("check", write_recipe("lora, ia3", extra="tune:\n  learning_rate: {values: [1e-4, 2e-4]}\n"))
    assert "tuning: 2 settings of learning_rate for each method, 4 more trainings" in fewer.stdout


def test_a_method_that_needs_too_much_memory_is_reported(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.machine import memory

    monkeypatch.setattr(memory, "available", lambda: 2_800_000)
    printed = adapterzoo("check", write_recipe("full, ia3")).stdout
    assert re.search(r"full needs at least \d\.\d+MB of memory, but 2\.80MB are free", printed)
    assert "ia3 needs" not in printed
