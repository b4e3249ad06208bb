"""The smallest difference that a given number of test examples and seeds can show, known before a run.

How many answers two methods will disagree on is not known before a run, so it is assumed, and ``check`` says so. The
assumptions come from the quickstart's seven methods on three seeds (docs/statistics.md), where any two methods
disagreed on 6 to 28 % of the answers.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from adapterzoo.comparison.pooling import expected_df
from adapterzoo.comparison.spread import Caution, Spread
from adapterzoo.comparison.statistics import LEVEL

# Share of the test examples that one of two methods answers right and the other wrong.
DISAGREE = 0.2
# Share of these examples on which the two methods disagree, whatever the seed is.
LASTING = 0.5
# Standard deviation of a difference of shares between seeds, without the part that the examples cause.
SEED_DEVIATION = 0.015
# Share of runs that find the difference.
POWER = 0.8
# The search for a number of test examples stops here, because nobody has more of them.
MAX_EXAMPLES = 10**7
# Differences of shares are searched in steps of one ten-thousandth.
STEPS = 10_000


def smallest_difference(
    examples: int, seeds: int, rows: int = 2, comparisons: int = 1, *, shares: bool = True
) -> float | None:
    """Return the smallest difference that four of five runs find; None if these examples cannot show any difference.

    Args:
        examples: number of examples in the test split.
        seeds: number of seeds of each method.
        rows: number of trained rows; together they show how much the seeds differ.
        comparisons: largest number of comparisons that the p-values are corrected for.
        shares: whether the scores are shares of right answers. If not, the unit of the difference is the standard
            deviation of the difference between two methods' scores of an example.
    """
    tail = (1 - LEVEL) / 2 / comparisons
    if shares and seeds == 1:
        step = bisect_left(range(STEPS), True, lo=1, key=lambda step: _power(step / STEPS, examples, tail) >= POWER)
        return step / STEPS if step < STEPS else None
    if examples == 1:
        return None
    spread = _spread(examples, seeds, rows, shares)
    return spread.error * (spread.quantile(tail) + spread.quantile(1 - POWER))


def examples_needed(
    difference: float, seeds: int, rows: int = 2, comparisons: int = 1, *, shares: bool = True
) -> int | None:
    """Return how many test examples show a difference in four of five runs; None if that takes more seeds.

    Args:
        difference: the difference to show, above 0, in the unit of :func:`smallest_difference`.
        seeds: number of seeds of each method.
        rows: as in :func:`smallest_difference`.
        comparisons: as in :func:`smallest_difference`.
        shares: as in :func:`smallest_difference`.
    """

    def enough(examples: int) -> bool:
        if shares and seeds == 1:
            return _power(difference, examples, (1 - LEVEL) / 2 / comparisons) >= POWER
        smallest = smallest_difference(examples, seeds, rows, comparisons, shares=shares)
        return smallest is not None and smallest <= difference

    fewest = bisect_left(range(MAX_EXAMPLES), True, lo=1, key=enough)
    return None if fewest == MAX_EXAMPLES else fewest


def _power(difference: float, examples: int, tail: float) -> float:
    """Return the probability that McNemar's exact test finds a difference of shares."""
    import numpy as np
    from scipy.stats import binom

    disagree = max(DISAGREE, difference)
    better = (1 + difference / disagree) / 2
    middle, width = examples * disagree, 7 * math.sqrt(examples * disagree * (1 - disagree)) + 1
    # All likely numbers of examples on which the methods disagree: at most 7 standard deviations from the mean.
    disagreements = np.arange(max(math.floor(middle - width), 0), min(math.ceil(middle + width), examples) + 1)
    # The smallest number of examples in favour of the better method with which the test finds a difference.
    least = disagreements - binom.ppf(tail, disagreements, 0.5) + 1
    least += binom.sf(least - 1, disagreements, 0.5) > tail
    return float((binom.pmf(disagreements, examples, disagree) * binom.sf(least - 1, disagreements, better)).sum())


def _spread(examples: int, seeds: int, rows: int, shares: bool) -> Spread:
    """Return the expected uncertainty of the difference between two rows."""
    variance, deviation = (DISAGREE, SEED_DEVIATION) if shares else (1.0, SEED_DEVIATION / math.sqrt(DISAGREE))
    df = max(examples - 1, 1)
    if seeds == 1:
        # One seed shows nothing about other seeds, so its intervals are over the examples alone.
        return Spread(math.sqrt(variance / examples), 0.0, 0, df)
    # Expected mean squares (ms) of seeds and examples, as spread_of computes them from scores.
    seeds_ms = examples * deviation**2 + variance * (1 - LASTING)
    examples_ms = seeds * variance * LASTING
    error = math.sqrt((seeds_ms + examples_ms) / (seeds * examples))
    seeds_df = expected_df(rows, seeds)
    weight = (seeds_ms / (seeds_ms + examples_ms)) ** Caution.of(seeds_df, careful=True).exponent
    return Spread(error, weight, seeds_df, df)
