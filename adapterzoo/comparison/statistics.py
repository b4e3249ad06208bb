"""What the scores of test examples and seeds allow to be said: intervals, paired differences, ties.

How uncertain a mean is: :mod:`adapterzoo.comparison.spread`. What is done about it was chosen by simulation, and
docs/statistics.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from adapterzoo.comparison.spread import Scores, SeedSpread, spread_of, t

Seeds = Mapping[int | None, NDArray[np.float64]]
"""the scores of the test examples by seed; None stands for every seed: the untouched base changes with none"""
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """How much higher the first of two rows scores than the second."""

    value: float
    interval: tuple[float, float] | None
    """None of one example, or of numbers that are all the same: they show no spread"""
    p: float | None
    """how often chance alone would make as large a difference; not corrected for other comparisons"""


def interval(scores: Scores, *, right_or_wrong: bool = False) -> tuple[float, float] | None:
    """The 95 % interval of the mean over seeds and examples; of one seed, over examples alone.

    Args:
        scores: of shape (seeds, examples).
        right_or_wrong: every score is 0 or 1. The interval then stays within them, and is none of width zero.

    Returns:
        None of one example, or of numbers that are all the same: they show no spread.
    """
    mean, examples = float(scores.mean()), scores.shape[1]
    spread = spread_of(scores) if examples > 1 else None
    if spread is None or not spread.error:
        return _jeffreys(mean, examples) if right_or_wrong else None
    quantile = spread.quantile((1 - LEVEL) / 2)
    if right_or_wrong:
        # As many independent examples as would leave that much uncertainty.
        normal = t((1 - LEVEL) / 2, examples - 1)
        return _jeffreys(mean, mean * (1 - mean) / (spread.error * quantile / normal) ** 2)
    return mean - quantile * spread.error, mean + quantile * spread.error


def _jeffreys(mean: float, examples: float) -> tuple[float, float]:
    """Of a share, between none and all (Brown, Cai and DasGupta, Statistical Science 16, 2001)."""
    from scipy import stats

    right = mean * examples
    low, high = stats.beta.interval(LEVEL, right + 0.5, examples - right + 0.5)
    return (0.0 if right == 0 else float(low)), (1.0 if right == examples else float(high))


def differences(rows: Mapping[str, Seeds], *, right_or_wrong: bool = False) -> dict[tuple[str, str], Difference]:
    """The paired differences of all rows, both ways round, with the spread between seeds taken from all of them.

    Args:
        rows: by label, all of the same examples.
        right_or_wrong: every score is 0 or 1.
    """
    found = {}
    # Of a row that no seed changes, differences vary less.
    for fixed in (0, 1, 2):
        pairs = [pair for pair in combinations(rows, 2) if sum(None in rows[label] for label in pair) == fixed]
        deltas = {pair: _paired(rows[pair[0]], rows[pair[1]]) for pair in pairs}
        several = [delta.mean(axis=1) for delta in deltas.values() if len(delta) > 1]
        pooled = None
        if len(several) > 1:
            drawn = {label for pair, delta in deltas.items() if len(delta) > 1 for label in pair}
            varied = sum(None not in rows[label] for label in drawn) - (not fixed)
            df = max(varied, 1) * (min(map(len, several)) - 1)
            pooled = SeedSpread(float(np.mean([delta.var(ddof=1) for delta in several])), df)
        for (first, second), delta in deltas.items():
            one = difference(delta, right_or_wrong=right_or_wrong, seeds=pooled)
            found[first, second] = one
            swapped = one.interval and (-one.interval[1], -one.interval[0])
            found[second, first] = Difference(0.0 - one.value, swapped, one.p)
    return found


def _paired(first: Seeds, second: Seeds) -> Scores:
    """The scores of one row less those of the other, of shape (seeds, examples)."""
    if None in first or None in second:
        return stack(first) - stack(second)
    # Seeds that both have share the order of the rows. Where there are none, any draw goes with any other.
    common = [seed for seed in first if seed in second]
    pairs = [(seed, seed) for seed in common] or list(zip(first, second, strict=False))
    return np.stack([first[one] - second[other] for one, other in pairs])


def stack(seeds: Seeds) -> Scores:
    """Of shape (seeds, examples)."""
    return np.stack(list(seeds.values()))


def difference(scores: Scores, *, right_or_wrong: bool = False, seeds: SeedSpread | None = None) -> Difference:
    """The mean of paired differences, with a test suited to the metric.

    Right or wrong, one seed: the exact test of McNemar. Else the t test of the examples' differences, with the spread
    between seeds where there are several.

    Args:
        scores: those of one row less those of the other, of shape (seeds, examples).
        right_or_wrong: every score was 0 or 1.
        seeds: the spread that other pairs of rows show too.
    """
    from scipy import stats

    value, (many, examples) = float(scores.mean()), scores.shape
    if examples == 1:
        return Difference(value, None, None)
    better, worse = (int((sign * scores.sum(axis=0) > 0).sum()) for sign in (1, -1))
    # So often at least would as many examples all be decided the same way if each were as likely decided the other.
    at_least = 2.0 ** (1 - max(better + worse, 1))
    if not spread_of(scores).error:
        if not right_or_wrong:
            return Difference(value, None, at_least)
        # That it will always be so is not known: one more example is decided each way (Bonett and Price, Statistics
        # in Medicine 31, 2012).
        one = np.full((many, 1), 1 / np.sqrt(many))
        scores = np.concatenate([scores, one, -one], axis=1)
    spread, careful = spread_of(scores, seeds), spread_of(scores, seeds, careful=True)
    center, half = float(scores.mean()), spread.quantile((1 - LEVEL) / 2) * spread.error
    if not right_or_wrong:
        return Difference(value, (center - half, center + half), careful.p(center))
    if many == 1:
        p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    else:
        p = max(careful.p(center), at_least)
    return Difference(value, (max(center - half, -1.0), min(center + half, 1.0)), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for how many they are (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in corrected]
