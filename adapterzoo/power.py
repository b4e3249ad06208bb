"""Before a run: the smallest difference that so many test examples and seeds can show. No torch in here.

What two methods will disagree on is not known before, so it is assumed, and said. The figures are those of the
quickstart's seven methods on three seeds (docs/statistics.md), where any two disagreed on 6 to 28 % of the answers.
"""

from __future__ import annotations

import math

# Share of the answers that two methods do not both have right or both wrong.
DISAGREE = 0.2
# Share of that which seeds do not change: what one method can answer and the other cannot.
LASTING = 0.5
# Standard deviation between seeds of a difference of shares, beyond what the examples make of it.
SEED_DEVIATION = 0.015
POWER = 0.8
LEVEL = 0.05


def smallest_difference(examples: int, seeds: int, comparisons: int = 1, *, shares: bool = True) -> float:
    """The difference that is found in four of five runs.

    Args:
        examples: of the test split.
        seeds: of each method.
        comparisons: for how many the p-values are corrected, at worst.
        shares: of right answers; else in standard deviations of the difference of two methods' scores of an example.
    """
    return _factor(comparisons) * math.sqrt(_of_examples(seeds, shares) / examples + _of_seeds(seeds, shares))


def examples_needed(difference: float, seeds: int, comparisons: int = 1, *, shares: bool = True) -> int | None:
    """How many test examples show a difference in four of five runs; None where only more seeds can.

    Args:
        difference: above 0, as :func:`smallest_difference` gives it.
        seeds: of each method.
        comparisons: for how many the p-values are corrected, at worst.
        shares: as there.
    """
    left = (difference / _factor(comparisons)) ** 2 - _of_seeds(seeds, shares)
    return None if left <= 0 else math.ceil(_of_examples(seeds, shares) / left)


def _factor(comparisons: int) -> float:
    """Standard errors that a difference must be away from zero."""
    from scipy import stats

    return float(stats.norm.isf(LEVEL / 2 / comparisons) + stats.norm.isf(1 - POWER))


def _of_examples(seeds: int, shares: bool) -> float:
    return (DISAGREE if shares else 1.0) * (LASTING + (1 - LASTING) / seeds)


def _of_seeds(seeds: int, shares: bool) -> float:
    # One seed tells nothing of others, and its intervals do not claim to.
    deviation = SEED_DEVIATION if shares else SEED_DEVIATION / math.sqrt(DISAGREE)
    return 0.0 if seeds == 1 else deviation**2 / seeds
