"""How uncertain a mean over seeds and test examples is.

They are crossed: every seed answers the same examples. So a mean is uncertain for two reasons that do not average out
together, and a few seeds say little about the spread between seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""one number for each seed and test example, of shape (seeds, examples)"""
# A spread between seeds that chance makes this often is not counted.
POOL = 0.3
# And for a test, which shall rather miss a difference than make one up.
CAREFUL_POOL = 0.5
# How much the seeds of other pairs say of those of one, in degrees of freedom at most: some methods are less stable.
PRIOR = 4
# A pair whose seeds are further apart than those of all, as chance makes this often, goes by its own.
UNUSUAL = 0.1
# From the seeds' share of the variance to its weight: between 1 (Cochran and Cox) and 2 (Satterthwaite, nearly).
WEIGHT = 1.5


@dataclass(frozen=True)
class Spread:
    """The uncertainty of a mean: its standard error, in which seeds have a share that few of them vouch for."""

    error: float
    of_seeds: float
    """weight from 0 to 1 of the quantile with the seeds' degrees of freedom; the rest has those of the examples"""
    seeds_df: int
    examples_df: int

    def quantile(self, tail: float) -> float:
        """Of the mean divided by its error: between two t quantiles, as with Cochran and Cox.

        Their weights (Experimental Designs, 1957, 4.14) are the shares of the variance. Where the seeds' share is
        small that is too careful, as Satterthwaite's degrees of freedom are not careful enough where it is large.
        """
        of_examples = t(tail, self.examples_df)
        if not self.of_seeds:
            return of_examples
        return of_examples + self.of_seeds * (t(tail, self.seeds_df) - of_examples)

    def p(self, value: float) -> float:
        """How often chance makes a mean as far from zero."""
        from scipy import optimize

        if value == 0:
            return 1.0
        far = abs(value) / self.error
        if not self.of_seeds:
            return 2 * _tail(far, self.examples_df)
        tails = [_tail(far, df) for df in (self.seeds_df, self.examples_df)]
        if min(tails) < 1e-300:
            return 2 * max(tails)
        # Between the two distributions that it is weighted of.
        return 2 * float(optimize.brentq(lambda tail: self.quantile(tail) - far, min(tails) * 0.99, max(tails) * 1.01))


@dataclass(frozen=True)
class SeedSpread:
    """How far the seeds of all pairs of rows are apart: many rows tell more of that than the few seeds of one pair."""

    variance: float
    """of the difference that one seed shows"""
    df: int


def spread_of(scores: Scores, pooled: SeedSpread | None = None, *, careful: bool = False) -> Spread:
    """Of the mean, by the mean squares of the crossed design (seeds and examples both drawn from many).

    Args:
        pooled: the spread between seeds that other pairs of rows show too.
        careful: for a test. An interval holds the truth neither less nor much more often than it says.
    """
    from scipy.special import fdtrc

    seeds, examples = scores.shape
    by_seed, by_example = scores.mean(axis=1), scores.mean(axis=0)
    of_examples = seeds * float(by_example.var(ddof=1))
    of_examples_alone = float(np.sqrt(of_examples / (seeds * examples)))
    if of_examples_alone < 1e-9 * float(np.abs(scores).max()):
        of_examples_alone = 0.0  # but for rounding
    if seeds == 1:
        return Spread(of_examples_alone, 0.0, 0, examples - 1)
    of_seeds, df = examples * float(by_seed.var(ddof=1)), seeds - 1
    if pooled is not None and pooled.df > df:
        usual = examples * pooled.variance
        if fdtrc(df, pooled.df, _ratio(of_seeds, usual)) >= UNUSUAL:
            prior = min(PRIOR, pooled.df - df)
            of_seeds, df = (df * of_seeds + prior * usual) / (df + prior), df + prior
    rest = scores - by_seed[:, None] - by_example + scores.mean()
    residual_df = (seeds - 1) * (examples - 1)
    residual = float((rest**2).sum()) / residual_df
    if fdtrc(df, residual_df, _ratio(of_seeds, residual)) >= (CAREFUL_POOL if careful else POOL):
        return Spread(of_examples_alone, 0.0, df, examples - 1)
    more = max(of_examples - residual, 0.0)
    error = float(np.sqrt(max(of_seeds + more, of_examples) / (seeds * examples)))
    share = of_seeds / (of_seeds + more)
    return Spread(error, share if careful else share**WEIGHT, df, examples - 1)


def t(tail: float, df: int) -> float:
    """Student's t, which is exceeded so often; scipy.stats has the same at fifty times the cost."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, tail))


def _tail(t: float, df: int) -> float:
    """How often t is exceeded."""
    from scipy.special import stdtr

    return float(stdtr(df, -t))


def _ratio(one: float, other: float) -> float:
    return one / other if other else float("inf") if one else 0.0
