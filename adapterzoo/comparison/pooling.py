"""Estimate the spread between the seeds of each pair of rows from all rows of a table.

A few seeds of two rows say little about how much seeds change a difference; the seeds of all rows say more. The
variance of a difference is the sum of one number for each of its two rows. These numbers are moderated as in limma
(Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004): each is drawn towards the mean of all rows,
the more so the less the rows seem to differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
# Degrees of freedom that the mean of all rows adds to those of one row, before the rows show how much they differ.
PRIOR = 3
# Rows differ in their true variances. PRIOR expects the logarithms of these to have a certain variance, and this is the
# standard deviation of that expectation.
PRIOR_ERROR = 1.0
# Rows with a variance that chance alone gives to the least stable row this rarely say nothing about the others.
UNUSUAL = 0.05
# Seeds show the spread of a difference. Which of its two rows causes it is only seen with at least this many rows.
MIN_ROWS_TO_SEPARATE = 4
# Smallest variance of a row, as a share of the mean of all rows, that goes into the fit: its logarithm must exist.
FLOOR = 1e-3


@dataclass(frozen=True)
class SeedSpread:
    """The spread between the seeds of a difference."""

    variance: float
    """variance of the difference between seeds"""
    df: float
    """degrees of freedom of the variance"""


def seed_spreads(
    by_seed: Mapping[tuple[str, str], Numbers], with_seeds: Collection[str]
) -> dict[tuple[str, str], SeedSpread]:
    """Return the spread between the seeds of each pair of rows that has at least two seeds.

    Args:
        by_seed: pair of labels -> mean difference for each seed. Either both rows of every pair have seeds, or one.
        with_seeds: the labels of the rows that have seeds.
    """
    pairs = {pair: means for pair, means in by_seed.items() if len(means) > 1}
    labels = [label for label in with_seeds if any(label in pair for pair in pairs)]
    if not pairs:
        return {}
    variances = np.array([means.var(ddof=1) for means in pairs.values()])
    pair_df = np.array([len(means) - 1.0 for means in pairs.values()])
    if not variances.any():
        return {pair: SeedSpread(0.0, float(df)) for pair, df in zip(pairs, pair_df, strict=True)}
    member = np.array([[float(label in pair) for label in labels] for pair in pairs])
    moderated, row_df = _moderate(_of_rows(member, variances, pair_df))
    variance, df = member @ moderated, member @ row_df
    if member[0].sum() == 2 and len(labels) >= MIN_ROWS_TO_SEPARATE:
        # Degrees of freedom of a sum of two variances (Welch, Biometrika 34, 1947).
        squares = np.maximum(member @ (moderated**2 / (row_df + 2)), np.finfo(float).tiny)
        df = np.clip(variance**2 / squares - 2, pair_df, df)
    return {pair: SeedSpread(float(variance[i]), float(df[i])) for i, pair in enumerate(pairs)}


@dataclass(frozen=True)
class _Rows:
    """The variances of rows between their seeds, as their differences show them."""

    variances: Numbers
    """variance of each row; below zero by chance"""
    df: Numbers
    """number of seeds of each row, less one"""
    in_pair: int
    """how many rows of each pair have seeds, 1 or 2"""
    mean: float
    """mean variance of the rows, without unusual rows"""
    usual: Numbers
    """from 0 to 1, how well each row's variance fits those of the others; 1 unless it is large"""


def _of_rows(member: Numbers, variances: Numbers, pair_df: Numbers) -> _Rows:
    """Return the variances of rows whose sums agree best with those of the pairs.

    Args:
        member: 1 where a row with seeds is in a pair and 0 elsewhere, of shape (pairs, rows).
        variances: variance of each pair's difference.
        pair_df: degrees of freedom of these variances.
    """
    in_pair, df = int(member[0].sum()), (member * pair_df[:, None]).max(axis=0)
    kept, mean, counts = np.ones(len(df), dtype=bool), float(variances.mean()), pair_df
    while True:
        mean = max(float(np.average(variances, weights=counts)) / in_pair, FLOOR * mean)
        # If all pairs count alike, this is Grubbs' estimator (Journal of the American Statistical Association, 1948).
        root = np.sqrt(counts)
        of_rows = np.asarray(np.linalg.lstsq(member * root[:, None], variances * root, rcond=1e-12)[0], dtype=float)
        own_df, _, total_df = _row_df(df, in_pair)
        usual = _usual(of_rows / mean, own_df, total_df)
        still_kept = kept & (usual >= UNUSUAL)
        if still_kept.sum() in (kept.sum(), 0):
            return _Rows(of_rows, df, in_pair, mean, usual)
        kept = still_kept
        # The difference to an unusual row says nothing about the other row: let such pairs hardly count, and the less
        # the larger their variance is.
        unusual, ratios = member[:, ~kept].any(axis=1), np.maximum(member @ of_rows / mean, 0.0)
        counts = pair_df * np.where(unusual, 1e-6 / (1 + ratios**2), 1.0)


def _moderate(rows: _Rows) -> tuple[Numbers, Numbers]:
    """Return the moderated variance of each row, and its degrees of freedom."""
    own_df, most_prior_df, _ = _row_df(rows.df, rows.in_pair)
    kept = rows.usual >= UNUSUAL
    # Differences to the mean of all rows give variances that are never negative, unlike those of single rows.
    seen = rows.variances[kept] / rows.mean
    to_mean = seen * (1 - 2 / kept.sum()) + 1 / kept.sum() if rows.in_pair == 2 else seen
    # A row whose variance is larger than that of the least stable of so many rows should be is probably of another
    # kind: draw it less to the mean (as in Phipson et al., Annals of Applied Statistics 10, 2016).
    prior_df = np.minimum(_prior_df(np.maximum(to_mean, FLOOR), rows.df[kept]) * rows.usual, most_prior_df)
    df = own_df + prior_df
    return np.maximum((own_df * rows.variances + prior_df * rows.mean) / df, 0.0), df


def expected_df(rows: int, seeds: int) -> float:
    """Return the degrees of freedom that the spread between seeds of a pair probably has.

    Args:
        rows: number of rows with seeds.
        seeds: number of seeds of each row, at least two.
    """
    own_df, limit, _ = _row_df(np.full(max(rows, 2), seeds - 1.0), 2)
    return 2 * float(own_df[0] + min(PRIOR, limit[0]))


def _row_df(df: Numbers, in_pair: int) -> tuple[Numbers, Numbers, float]:
    """Return how much the seeds of rows show of the spread of each row, and of all together.

    Args:
        df: number of seeds of each row, less one.
        in_pair: how many rows of each pair have seeds, 1 or 2.

    Returns:
        The degrees of freedom of each row's own variance, the largest number that the other rows can add to it, and the
        degrees of freedom of all rows together.
    """
    rows = len(df)
    if in_pair == 1:
        return df, df.sum() - df, float(df.sum())
    # The variance of one row is only known from its differences to the others, so its degrees of freedom are fewer.
    own_df = df * max(1 - 2 / (rows + 1), 0.5)
    total_df = float(df.sum()) * (1 - 1 / rows)
    return own_df, np.maximum(total_df / 2 - own_df, 0.0), total_df


def _usual(ratios: Numbers, df: Numbers, total_df: float) -> Numbers:
    """Return how often chance alone gives the least stable of so many rows a variance as large, at most 1.

    Args:
        ratios: variance of each row, divided by the mean of all rows.
        df: degrees of freedom of each variance.
        total_df: degrees of freedom of the mean.
    """
    from scipy.special import fdtrc

    chance: Numbers = fdtrc(df, total_df, np.maximum(ratios, 0.0))
    return np.minimum(len(ratios) * chance, 1.0)


def _prior_df(variances: Numbers, df: Numbers) -> float:
    """Return how many degrees of freedom the mean of all rows is worth for a single row.

    The logarithms of the variances spread by chance, which their degrees of freedom tell, and because the rows differ.
    What they spread beyond chance gives the degrees of freedom (Smyth 2004, section 6.2). A few rows measure it badly,
    so it is weighted with what PRIOR expects.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, zeta

    # The derivatives of digamma are multiples of Hurwitz's zeta; scipy's polygamma takes ten times as long.
    expected = zeta(2, PRIOR / 2)
    if len(variances) < 2:
        return PRIOR
    logs = np.log(variances) - digamma(df / 2) + np.log(df / 2)
    beyond_chance = float(logs.var(ddof=1) - zeta(2, df / 2).mean())
    error = float((6 * zeta(4, df / 2) + 2 * zeta(2, df / 2) ** 2).mean()) / (len(variances) - 1)
    weight = PRIOR_ERROR**2 / (PRIOR_ERROR**2 + error)
    beyond_chance = weight * max(beyond_chance, 0.0) + (1 - weight) * expected
    return 2 * float(brentq(lambda half: zeta(2, half) - beyond_chance, 1e-3, 1e6))
