"""Before a run: the smallest difference that so many test examples and seeds can show. No torch in here.

What two methods will disagree on is not known before, so it is assumed, and said. The figures are those of the
quickstart's seven methods on three seeds (docs/statistics.md), where any two disagreed on 6 to 28 % of the answers.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from adapterzoo.comparison.spread import PRIOR, Spread
from adapterzoo.comparison.statistics import LEVEL

# Share of the answers that two methods do not both have right or both wrong.
DISAGREE = 0.2
# Share of that which seeds do not change: what one method can answer and the other cannot.
LASTING = 0.5
# Standard deviation between seeds of a difference of shares, beyond what the examples make of it.
SEED_DEVIATION = 0.015
POWER = 0.8
# More test examples than anybody has.
ENDLESS = 10**7
# In which shares are told.
STEPS = 10_000


def smallest_difference(
    examples: int, seeds: int, rows: int = 2, comparisons: int = 1, *, shares: bool = True
) -> float | None:
    """The difference that is found in four of five runs; None where these examples show none, however large.

    Args:
        examples: of the test split.
        seeds: of each method.
        rows: of the table that seeds change: together they tell how far seeds are apart.
        comparisons: for how many the p-values are corrected, at worst.
        shares: of right answers; else in standard deviations of the difference of two methods' scores of an example.
    """
    tail = (1 - LEVEL) / 2 / comparisons
    if shares and seeds == 1:
        found = bisect_left(range(STEPS), True, lo=1, key=lambda step: _exact(step / STEPS, examples, tail) >= POWER)
        return found / STEPS if found < STEPS else None
    if examples == 1:
        return None
    spread = _spread(examples, seeds, rows, shares)
    return spread.error * (spread.quantile(tail) + spread.quantile(1 - POWER))


def examples_needed(
    difference: float, seeds: int, rows: int = 2, comparisons: int = 1, *, shares: bool = True
) -> int | None:
    """How many test examples show a difference in four of five runs; None where only more seeds can.

    Args:
        difference: above 0, as :func:`smallest_difference` gives it.
        seeds: of each method.
        rows: as there.
        comparisons: as there.
        shares: as there.
    """

    def shown(examples: int) -> bool:
        if shares and seeds == 1:
            return _exact(difference, examples, (1 - LEVEL) / 2 / comparisons) >= POWER
        smallest = smallest_difference(examples, seeds, rows, comparisons, shares=shares)
        return smallest is not None and smallest <= difference

    found = bisect_left(range(ENDLESS), True, lo=1, key=shown)
    return None if found == ENDLESS else found


def _exact(difference: float, examples: int, tail: float) -> float:
    """How often McNemar's exact test finds a difference of shares."""
    import numpy as np
    from scipy.stats import binom

    disagree = max(DISAGREE, difference)
    better = (1 + difference / disagree) / 2
    middle, width = examples * disagree, 7 * math.sqrt(examples * disagree * (1 - disagree)) + 1
    decided = np.arange(max(math.floor(middle - width), 0), min(math.ceil(middle + width), examples) + 1)
    # The fewest for one side with which the test tells: fewer than that many for the other.
    least = decided - binom.ppf(tail, decided, 0.5) + 1
    least += binom.sf(least - 1, decided, 0.5) > tail
    return float((binom.pmf(decided, examples, disagree) * binom.sf(least - 1, decided, better)).sum())


def _spread(examples: int, seeds: int, rows: int, shares: bool) -> Spread:
    """What is to be expected of the difference of two rows."""
    variance, deviation = (DISAGREE, SEED_DEVIATION) if shares else (1.0, SEED_DEVIATION / math.sqrt(DISAGREE))
    df = max(examples - 1, 1)
    if seeds == 1:
        # One seed tells nothing of others, and its intervals do not claim to.
        return Spread(math.sqrt(variance / examples), 0.0, 0, df)
    of_seeds = examples * deviation**2 + variance * (1 - LASTING)
    of_examples = seeds * variance * LASTING
    error = math.sqrt((of_seeds + of_examples) / (seeds * examples))
    of_others = min(PRIOR, max(rows - 2, 0) * (seeds - 1))
    return Spread(error, of_seeds / (of_seeds + of_examples), seeds - 1 + of_others, df)
