"""Intervals, paired differences and corrected p-values from the scores of test examples and seeds.

:mod:`adapterzoo.comparison.spread` says how uncertain a mean is. The methods were chosen by simulation;
docs/statistics.md has the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from adapterzoo.comparison.pooling import SeedSpread, seed_spreads
from adapterzoo.comparison.spread import MeanSquares, Scores, spread_of, t

Seeds = Mapping[int | None, NDArray[np.float64]]
"""seed -> scores of the test examples; the seed is None for the untouched base model, whose scores hold for any seed"""
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The difference between the scores of two rows."""

    value: float
    """score of the first row minus the score of the second"""
    interval: tuple[float, float] | None
    """None for one example; None too if all differences are the same, unless every score of both rows is 0 or 1"""
    p: float | None
    """probability that chance alone makes a difference as large, not corrected for other comparisons"""


def interval(scores: Scores, *, right_or_wrong: bool = False) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over seeds and examples; with one seed, over the examples alone.

    Args:
        scores: of shape (seeds, examples).
        right_or_wrong: whether every score is 0 or 1. The interval then stays between 0 and 1, and its width is never
            zero.

    Returns:
        The low and the high end. None if the scores show no spread (there is only one example, or all scores are the
        same) and ``right_or_wrong`` is false.
    """
    mean, examples = float(scores.mean()), scores.shape[1]
    spread = spread_of(MeanSquares.of(scores)) if examples > 1 else None
    if spread is None or not spread.error:
        return _jeffreys(mean, examples) if right_or_wrong else None
    quantile = spread.quantile((1 - LEVEL) / 2)
    if right_or_wrong:
        # Use the number of independent examples that would give the same uncertainty.
        examples_quantile = t((1 - LEVEL) / 2, examples - 1)
        return _jeffreys(mean, mean * (1 - mean) / (spread.error * quantile / examples_quantile) ** 2)
    return mean - quantile * spread.error, mean + quantile * spread.error


def _jeffreys(mean: float, examples: float) -> tuple[float, float]:
    """Return the Jeffreys interval of a share (Brown, Cai and DasGupta, Statistical Science 16, 2001)."""
    from scipy.special import betaincinv

    right = mean * examples
    low, high = betaincinv(right + 0.5, examples - right + 0.5, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (0.0 if right == 0 else float(low)), (1.0 if right == examples else float(high))


def differences(rows: Mapping[str, Seeds], *, right_or_wrong: bool = False) -> dict[tuple[str, str], Difference]:
    """Return the paired differences between all rows, in both directions.

    The spread between seeds is estimated from all rows together.

    Args:
        rows: label -> scores by seed, all of the same examples.
        right_or_wrong: whether every score is 0 or 1.
    """
    by_pair = {}
    # Handle pairs with 0, 1 and 2 rows without seeds separately: if a row has no seeds, differences vary less.
    for without_seeds in (0, 1, 2):
        pairs = [pair for pair in combinations(rows, 2) if sum(None in rows[label] for label in pair) == without_seeds]
        deltas = {pair: paired(rows[pair[0]], rows[pair[1]]) for pair in pairs}
        by_seed = {pair: delta.mean(axis=1) for pair, delta in deltas.items()}
        spreads = seed_spreads(by_seed, [label for label in rows if None not in rows[label]])
        for (first, second), delta in deltas.items():
            forward = difference(delta, right_or_wrong=right_or_wrong, seeds=spreads.get((first, second)))
            by_pair[first, second] = forward
            reversed_interval = forward.interval and (-forward.interval[1], -forward.interval[0])
            by_pair[second, first] = Difference(0.0 - forward.value, reversed_interval, forward.p)
    return by_pair


def paired(first: Seeds, second: Seeds) -> Scores:
    """Return the scores of one row minus those of another, of shape (seeds, examples)."""
    if None in first or None in second:
        return stack(first) - stack(second)
    # Pair equal seeds, because they train on the rows in the same order. Without a common seed, no pairing is better.
    common = [seed for seed in first if seed in second]
    pairs = [(seed, seed) for seed in common] or list(zip(first, second, strict=False))
    return np.stack([first[seed] - second[other_seed] for seed, other_seed in pairs])


def stack(seeds: Seeds) -> Scores:
    """Return the scores of all seeds as one array, of shape (seeds, examples)."""
    return np.stack(list(seeds.values()))


def difference(scores: Scores, *, right_or_wrong: bool = False, seeds: SeedSpread | None = None) -> Difference:
    """Return the mean of paired differences, with a test that suits the metric.

    The test is McNemar's exact test for one seed of right or wrong answers. Otherwise it is the t test of the
    differences, with the spread between seeds if there are several.

    Args:
        scores: the scores of one row minus those of the other, of shape (seeds, examples).
        right_or_wrong: whether every score was 0 or 1.
        seeds: the spread between seeds, as all rows of the table show it; from the scores alone if None.
    """
    value, (seed_count, examples) = float(scores.mean()), scores.shape
    if examples == 1:
        return Difference(value, None, None)
    better, worse = (int((sign * scores.sum(axis=0) > 0).sum()) for sign in (1, -1))
    # The smallest p-value that so few examples allow: the probability that as many fair coins all show the same side.
    least_p = 2.0 ** (1 - max(better + worse, 1))
    squares = MeanSquares.of(scores)
    if not spread_of(squares).error:
        if not right_or_wrong:
            return Difference(value, None, least_p)
        # These examples show no spread, but others might: add one example in favour of each row (Bonett and Price,
        # Statistics in Medicine 31, 2012).
        added = np.full((seed_count, 1), 1 / np.sqrt(seed_count))
        scores = np.concatenate([scores, added, -added], axis=1)
        squares = MeanSquares.of(scores)
    spread, careful = spread_of(squares, seeds), spread_of(squares, seeds, careful=True)
    center, half = float(scores.mean()), spread.quantile((1 - LEVEL) / 2) * spread.error
    if not right_or_wrong:
        return Difference(value, (center - half, center + half), careful.p(center))
    p = _mcnemar(better, worse) if seed_count == 1 else max(careful.p(center), least_p)
    return Difference(value, (max(center - half, -1.0), min(center + half, 1.0)), p)


@cache
def _mcnemar(better: int, worse: int) -> float:
    """Return the p-value of McNemar's exact test; many pairs of rows have the same numbers of examples."""
    from scipy.special import bdtr

    return min(2 * float(bdtr(min(better, worse), better + worse, 0.5)), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in corrected]
