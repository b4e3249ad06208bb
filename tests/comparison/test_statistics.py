from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from simulated import Simulation, coverage, false_claims

from adapterzoo.comparison.pooling import SeedSpread, seed_spreads
from adapterzoo.comparison.power import DISAGREE, LASTING, SEED_DEVIATION, examples_needed, smallest_difference
from adapterzoo.comparison.statistics import difference, differences, holm, interval


@pytest.mark.parametrize("right_or_wrong", [True, False])
@pytest.mark.parametrize("examples", [50, 300, 1000])
@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_intervals_hold_the_true_value_in_95_percent_of_draws(seeds: int, examples: int, right_or_wrong: bool) -> None:
    shares = coverage(Simulation(right_or_wrong, seeds, examples), 2000)
    for share in shares:
        assert 0.93 <= share <= 0.97, shares


@pytest.mark.parametrize("right_or_wrong", [True, False])
@pytest.mark.parametrize("rows", [2, 5, 12])
@pytest.mark.parametrize(("seeds", "examples"), [(1, 50), (3, 50), (3, 300), (5, 300)])
def test_equal_rows_are_rarely_called_better_or_worse(
    seeds: int, examples: int, rows: int, right_or_wrong: bool
) -> None:
    winner, worse = false_claims(Simulation(right_or_wrong, seeds, examples, rows), {2: 1000, 5: 300, 12: 100}[rows])
    assert winner <= 0.05 + 0.007, "one standard error of a thousand draws"
    assert worse <= 0.07


def test_intervals_hold_the_true_value_more_often_than_a_bootstrap() -> None:
    """Resampling three seeds and the examples together gives intervals that hold the true value too rarely."""
    simulation, rng, held = Simulation(False, 3, 300, seed_spread=1.0), np.random.default_rng(0), 0
    for _ in range(200):
        first, second = simulation.draw(rng)
        delta = first - second
        draws = [delta[np.ix_(rng.integers(0, 3, 3), rng.integers(0, 300, 300))].mean() for _ in range(200)]
        low, high = np.quantile(draws, (0.025, 0.975))
        held += low <= 0 <= high
    assert held / 200 < 0.9
    assert coverage(simulation, 200)[1] > 0.92


def test_one_seed_of_right_or_wrong_answers_gets_mcnemars_exact_test() -> None:
    first = np.array([[1.0] * 12 + [0.0] * 38])
    second = np.array([[0.0] * 12 + [1.0] * 2 + [0.0] * 36])
    assert difference(first - second, right_or_wrong=True).p == pytest.approx(stats.binomtest(12, 14).pvalue)


def test_one_seed_of_numbers_gets_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (1, 80)), rng.normal(0.3, 1, (1, 80))
    expected = stats.ttest_rel(first[0], second[0])
    measured = difference(first - second)
    assert measured.p == pytest.approx(expected.pvalue)
    assert measured.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_seeds_that_cause_all_the_spread_get_a_t_test_over_seeds() -> None:
    by_seed = np.array([0.1, 0.5, 0.9])
    scores = np.repeat(by_seed[:, None], 200, axis=1) + np.random.default_rng(0).normal(0, 1e-6, (3, 200))
    expected = stats.ttest_1samp(by_seed, 0)
    assert difference(scores).p == pytest.approx(expected.pvalue, rel=1e-3)


def test_more_rows_make_intervals_narrower() -> None:
    rng = np.random.default_rng(0)
    simulation = Simulation(False, 3, 300, rows=8, seed_spread=1.0)
    rows = {str(i): dict(enumerate(scores)) for i, scores in enumerate(simulation.draw(rng))}

    def width(ends: tuple[float, float] | None) -> float:
        assert ends is not None
        return ends[1] - ends[0]

    together = np.mean([width(found.interval) for found in differences(rows).values()])
    alone = np.mean([width(differences({k: rows[k] for k in pair})[pair].interval) for pair in differences(rows)])
    assert together < alone / 1.2


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seed_spread", Path("bench/seed_spread.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it here
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("seed_spread", "right_or_wrong"), [(0.0, False), (0.25, False), (0.25, True), (1.0, False)])
def test_two_seeds_of_two_rows_are_enough_for_honest_intervals(
    bench: ModuleType, seed_spread: float, right_or_wrong: bool
) -> None:
    """Docs/statistics.md has the same figures from more draws, and for more rows."""
    measured = bench.measure(bench.Table(2, 2, seed_spread, right_or_wrong=right_or_wrong), 600)
    assert measured.covered >= 0.94 - 0.01, "one standard error of 600 draws"
    assert measured.false_calls <= 0.055 + 0.009


def test_of_many_rows_those_far_behind_the_best_are_called_worse(bench: ModuleType) -> None:
    measured = bench.measure(bench.Table(10, 3), 40)
    assert measured.covered > 0.93
    assert measured.found > 0.45
    assert measured.false_calls <= 0.075


def _spreads(spreads: Sequence[float], seeds: int = 3) -> dict[tuple[str, str], SeedSpread]:
    """Return the spread of each pair of rows; ``spreads`` has the standard deviation between the seeds of each row."""
    rng = np.random.default_rng(0)
    rows = {str(number): spread * rng.normal(size=seeds) for number, spread in enumerate(spreads)}
    return seed_spreads({(a, b): rows[a] - rows[b] for a, b in combinations(rows, 2)}, rows)


def test_the_table_decides_how_much_other_rows_say_about_a_row() -> None:
    alike = _spreads([1.0] * 40)
    different = _spreads([0.1, 10.0] * 20)
    assert np.median([pair.df for pair in alike.values()]) > np.median([pair.df for pair in different.values()]) + 1
    assert all(1 < pair.variance < 4 for pair in alike.values()), "the truth is 2; the seeds of a pair show 0 to 14"
    assert different["1", "3"].variance > different["0", "2"].variance


def test_an_unstable_row_does_not_change_what_is_known_about_the_others() -> None:
    spreads = _spreads([20.0] + [1.0] * 19)
    of_first = [pair for labels, pair in spreads.items() if "0" in labels]
    of_others = [pair for labels, pair in spreads.items() if "0" not in labels]
    assert min(pair.variance for pair in of_first) > 50
    assert max(pair.variance for pair in of_others) < 4
    assert max(pair.df for pair in of_first) < 2.5, "other rows say nothing about this one"
    assert min(pair.df for pair in of_others) > 4


def test_two_very_unstable_rows_hide_neither_each_other_nor_the_stable_rows() -> None:
    for seed in range(20):
        rows = {str(number): np.random.default_rng([seed, number]).normal(size=3) for number in range(10)}
        rows["0"] *= 300
        rows["1"] *= 15
        by_seed = {(a, b): rows[a] - rows[b] for a, b in combinations(rows, 2)}
        spreads = seed_spreads(by_seed, rows)
        for pair, means in by_seed.items():
            assert spreads[pair].variance > 0.25 * means.var(ddof=1), (seed, pair)


def test_the_spread_of_a_single_pair_is_its_own() -> None:
    means = np.array([0.1, 0.5, 0.2])
    own = SeedSpread(pytest.approx(means.var(ddof=1)), pytest.approx(2))
    assert seed_spreads({("a", "b"): means}, ["a", "b"]) == {("a", "b"): own}
    assert seed_spreads({("a", "base"): means}, ["a"]) == {("a", "base"): own}
    assert seed_spreads({("a", "b"): means[:1]}, ["a", "b"]) == {}
    assert seed_spreads({("a", "b"): means * 0}, ["a", "b"])["a", "b"].variance == 0


def test_rows_with_different_numbers_of_seeds_share_what_they_know() -> None:
    rng = np.random.default_rng(0)
    seeds = {"a": 2, "b": 8, "c": 8, "d": 8}
    rows = {
        label: {seed: rng.normal(0, 0.1, 50) + rng.normal(0, 0.5) for seed in range(n)} for label, n in seeds.items()
    }

    def width(labels: Collection[str]) -> float:
        ends = differences({label: rows[label] for label in labels})["a", "b"].interval
        assert ends is not None
        return ends[1] - ends[0]

    assert width("abcd") < width("ab") / 2


def test_every_seed_is_compared_with_the_same_untouched_base() -> None:
    rng = np.random.default_rng(0)
    base, row = {None: rng.normal(0, 1, 100)}, {seed: rng.normal(2, 1, 100) for seed in range(3)}
    pairs = differences({"base": base, "row": row})
    assert pairs["row", "base"].value == pytest.approx(np.mean([row[s] for s in row]) - base[None].mean())
    assert pairs["row", "base"].value == -pairs["base", "row"].value
    assert (pairs["row", "base"].p or 0) < 1e-6


def test_equal_seeds_are_paired_and_any_seeds_if_none_are_equal() -> None:
    scores = {seed: np.random.default_rng(seed).normal(seed, 1, 50) for seed in range(4)}
    first, second = {0: scores[0], 1: scores[1]}, {1: scores[1], 2: scores[2]}
    assert differences({"a": first, "b": second})["a", "b"].value == 0, "seed 1 is in both"
    apart = differences({"a": {0: scores[0]}, "b": {3: scores[3]}})
    assert apart["a", "b"].value == pytest.approx(scores[0].mean() - scores[3].mean())


def test_scores_without_any_spread_are_not_taken_for_certain() -> None:
    right = np.ones((3, 50))
    low, high = interval(right, right_or_wrong=True) or (0, 0)
    assert high == 1
    assert 0.9 < low < 1
    alike = difference(right - right, right_or_wrong=True)
    assert alike.p == 1
    assert alike.interval is not None
    assert alike.interval[0] < 0 < alike.interval[1]
    assert difference(np.zeros((3, 50))).p == 1
    shifted = difference(np.full((3, 50), 0.5))
    assert shifted.interval is None
    assert shifted.p == 2.0**-49, "the probability that 50 coins fall on the same side"
    assert interval(np.full((2, 50), 0.5)) is None


def test_few_examples_show_no_difference_however_many_seeds_agree() -> None:
    everywhere = difference(np.ones((5, 4)), right_or_wrong=True)
    assert everywhere.p == 0.125, "the probability that four coins fall on the same side"
    assert everywhere.interval is not None
    assert 0 < everywhere.interval[0] < 0.1 < everywhere.interval[1] == 1
    taking_turns = np.array([[1.0, 0.0], [0.0, 1.0]])
    low, high = interval(taking_turns, right_or_wrong=True) or (0.5, 0.5)
    assert low < 0.2 < 0.8 < high
    nearly = difference(np.array([[1.0] * 49 + [0.0]]), right_or_wrong=True)
    assert nearly.interval is not None
    assert nearly.interval[1] == 1


def test_rows_without_seeds_do_not_change_the_spread_between_seeds() -> None:
    """The spread between seeds comes from the trained row alone, however many base rows there are."""
    rng, significant = np.random.default_rng(0), 0
    for _ in range(300):
        rows = {f"base-{i}": {None: rng.normal(0, 0.1, 200)} for i in range(3)}
        trained = {"lora": {seed: rng.normal(0, 0.1, 200) + rng.normal(0, 0.3) for seed in range(3)}}
        significant += (differences({**rows, **trained})["lora", "base-0"].p or 0) < 0.05
    assert significant / 300 < 0.08


def test_one_example_has_no_spread() -> None:
    assert interval(np.array([[0.3], [0.4]])) is None
    assert difference(np.array([[0.3], [0.4]])).p is None
    low, high = interval(np.array([[1.0]]), right_or_wrong=True) or (1, 1)
    assert low < 0.3
    assert high == 1


def test_p_values_are_corrected_as_holm_described() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_four_of_five_draws_find_the_smallest_difference() -> None:
    """``adapterzoo check`` prints this difference for one seed."""
    for examples in (8, 30, 200, 1000):
        size, rng, significant = smallest_difference(examples, 1), np.random.default_rng(0), 0
        assert size is not None
        disagree = max(0.2, size)
        shares = [(disagree + size) / 2, (disagree - size) / 2, 1 - disagree]
        for _ in range(400):
            delta = rng.choice([1.0, -1.0, 0.0], p=shares, size=(1, examples))
            significant += (difference(delta, right_or_wrong=True).p or 0) < 0.05
        assert 0.74 < significant / 400 < 0.86
        assert examples_needed(size, 1) == pytest.approx(examples, rel=0.05)
    assert smallest_difference(4, 1) is None, "four coins fall on the same side too often"
    assert smallest_difference(1, 3) is None
    assert examples_needed(0.001, 3) is None, "the spread between seeds is larger"


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("rows", [2, 7])
def test_four_of_five_draws_find_the_smallest_difference_over_several_seeds(rows: int, seeds: int) -> None:
    """A few seeds show little of the spread between seeds; with more rows it is known better."""
    rng, significant, times = np.random.default_rng(0), 0, {2: 300, 7: 60}[rows]
    size = smallest_difference(300, seeds, rows)
    assert size is not None
    lasting, passing = math.sqrt(DISAGREE * LASTING / 2), math.sqrt(DISAGREE * (1 - LASTING) / 2)
    for _ in range(times):
        scores = rng.normal(0, lasting, (rows, 1, 300)) + rng.normal(0, passing, (rows, seeds, 300))
        scores += rng.normal(0, SEED_DEVIATION / math.sqrt(2), (rows, seeds, 1))
        scores[0] += size
        p = differences({str(i): dict(enumerate(row)) for i, row in enumerate(scores)})["0", "1"].p
        significant += p is not None and p < 0.05
    assert 0.65 < significant / times < 0.95
    needed = examples_needed(size, seeds, rows)
    assert needed == pytest.approx(300, rel=0.02)
