"""The uncertainty of a mean over seeds and test examples.

Seeds and examples are crossed: every seed answers the same examples. So the mean is uncertain for two reasons, seeds
and examples. More examples cannot replace more seeds, and a few seeds show little of the spread between seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapterzoo.comparison.pooling import SeedSpread

Scores = NDArray[np.float64]
"""one number for each seed and test example, of shape (seeds, examples)"""


class Caution(NamedTuple):
    """The two numbers that make an interval or a test longer. They were found by simulation (docs/statistics.md)."""

    pool: float
    """the spread between seeds is ignored if chance alone causes a larger one at least this often"""
    exponent: float
    """the weight of the seeds is their share of the variance to this power: 1 for Cochran and Cox, about 2 for
    Satterthwaite"""

    @classmethod
    def of(cls, df: float, *, careful: bool) -> Caution:
        """Return the numbers for some degrees of freedom: the fewer, the more rarely do seeds show their spread."""
        few = 1 / df**3
        return cls(0.5 + 0.1 * few, 1.0 - 0.25 * few) if careful else cls(0.3 + 0.3 * few, 1.5 - 0.5 * few)


@dataclass(frozen=True)
class Spread:
    """The standard error of a mean, and the weights and degrees of freedom of its two t quantiles."""

    error: float
    """standard error of the mean"""
    seed_weight: float
    """weight, from 0 to 1, of the quantile with ``seeds_df``; the quantile with ``examples_df`` has the rest"""
    seeds_df: float
    """degrees of freedom of the seeds"""
    examples_df: int
    """degrees of freedom of the examples"""

    def quantile(self, tail: float) -> float:
        """Return the quantile of the mean divided by its error: between two t quantiles, as with Cochran and Cox.

        Their weights (Experimental Designs, 1957, 4.14) are the shares of the variance. These are too careful if the
        seeds' share is small, and Satterthwaite's degrees of freedom are not careful enough if it is large.

        Args:
            tail: probability of a larger value.
        """
        examples_t = t(tail, self.examples_df)
        if not self.seed_weight:
            return examples_t
        return examples_t + self.seed_weight * (t(tail, self.seeds_df) - examples_t)

    def p(self, mean: float) -> float:
        """Return the probability that chance alone makes a mean at least as far from zero."""
        from scipy import optimize

        if mean == 0:
            return 1.0
        distance = abs(mean) / self.error
        if not self.seed_weight:
            return 2 * _tail(distance, self.examples_df)
        tails = [_tail(distance, df) for df in (self.seeds_df, self.examples_df)]
        if min(tails) < 1e-300:
            return 2 * max(tails)
        # The quantile is a weighted mean of the two t quantiles, so the tail is between their two tails.
        low, high = min(tails) * 0.99, max(tails) * 1.01
        return 2 * float(optimize.brentq(lambda tail: self.quantile(tail) - distance, low, high))


@dataclass(frozen=True)
class MeanSquares:
    """The mean squares (ms) of a crossed design with random seeds and examples."""

    seeds: int
    """number of seeds"""
    examples: int
    """number of examples"""
    examples_ms: float
    examples_error: float
    """standard error of the mean over the examples alone"""
    seeds_variance: float
    """variance of the means of the seeds; 0 with one seed"""
    residual_ms: float
    """what neither seeds nor examples explain; 0 with one seed"""

    @classmethod
    def of(cls, scores: Scores) -> MeanSquares:
        """Return the mean squares of scores of shape (seeds, examples)."""
        seeds, examples = scores.shape
        by_seed, by_example = scores.mean(axis=1), scores.mean(axis=0)
        examples_ms = seeds * float(by_example.var(ddof=1))
        examples_error = float(np.sqrt(examples_ms / (seeds * examples)))
        if examples_error < 1e-9 * float(np.abs(scores).max()):
            examples_error = 0.0  # anything this small comes from rounding
        if seeds == 1:
            return cls(seeds, examples, examples_ms, examples_error, 0.0, 0.0)
        residuals = scores - by_seed[:, None] - by_example + scores.mean()
        residual_ms = float((residuals**2).sum()) / ((seeds - 1) * (examples - 1))
        return cls(seeds, examples, examples_ms, examples_error, float(by_seed.var(ddof=1)), residual_ms)


def spread_of(squares: MeanSquares, pooled: SeedSpread | None = None, *, careful: bool = False) -> Spread:
    """Return the spread of the mean of scores.

    Args:
        squares: the mean squares of the scores.
        pooled: the spread between seeds, as all rows of the table show it; from the scores alone if None.
        careful: whether the spread is for a test, which should rather miss a difference than invent one. An interval
            should include the true value exactly as often as it says.
    """
    from scipy.special import fdtrc

    seeds, examples = squares.seeds, squares.examples
    if seeds == 1:
        return Spread(squares.examples_error, 0.0, 0, examples - 1)
    pooled = pooled or SeedSpread(squares.seeds_variance, seeds - 1)
    seeds_ms, df, caution = examples * pooled.variance, pooled.df, Caution.of(pooled.df, careful=careful)
    if fdtrc(df, (seeds - 1) * (examples - 1), _ratio(seeds_ms, squares.residual_ms)) >= caution.pool:
        return Spread(squares.examples_error, 0.0, df, examples - 1)
    beyond_residual = max(squares.examples_ms - squares.residual_ms, 0.0)
    error = float(np.sqrt(max(seeds_ms + beyond_residual, squares.examples_ms) / (seeds * examples)))
    share = seeds_ms / (seeds_ms + beyond_residual)
    return Spread(error, share**caution.exponent, df, examples - 1)


def t(tail: float, df: float) -> float:
    """Return the value that Student's t exceeds with this probability, fifty times faster than scipy.stats."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, tail))


def _tail(t: float, df: float) -> float:
    """Return the probability that Student's t exceeds a value."""
    from scipy.special import stdtr

    return float(stdtr(df, -t))


def _ratio(numerator: float, denominator: float) -> float:
    if denominator:
        return numerator / denominator
    return float("inf") if numerator else 0.0
