"""Say what would settle the ties of a block, and which of its tied rows costs least, from what its scores show."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np

from adapterzoo.comparison.comparison import Block
from adapterzoo.comparison.evidence import Evidence
from adapterzoo.comparison.pooling import expected_df, seed_spreads
from adapterzoo.comparison.power import MAX_EXAMPLES, POWER
from adapterzoo.comparison.spread import Caution, Scores, Spread
from adapterzoo.comparison.statistics import LEVEL, paired

MAX_SEEDS = 30
# Columns that cost something, in the order in which they are named.
COSTS = ("trainable_params", "train_seconds", "peak_memory_bytes", "answer_seconds")


@dataclass(frozen=True)
class Tie:
    """A row that is tied with the best one, and what would probably show its difference."""

    label: str
    difference: float
    """score of the row minus the score of the best row"""
    examples: int | None
    """number of test examples with as many seeds as now; None if more examples alone do not settle it"""
    seeds: int | None
    """number of seeds with as many test examples as now; None if more seeds alone do not settle it"""


@dataclass(frozen=True)
class NextSteps:
    """The ties of a block, what would settle them, and which of the tied rows costs least."""

    best: str
    """label of the row with the best score"""
    seeds: int
    """smallest number of seeds of the rows that are trained"""
    examples: int
    """number of test examples"""
    ties: Sequence[Tie]
    """the rows that are tied with it, the largest difference first"""
    cheapest: dict[str, str]
    """cost -> label of the row with the lowest, among the best row and those tied with it"""


def next_steps(block: Block) -> NextSteps | None:
    """Return what would settle the ties of a block; None if its rows are not ranked by scores of examples."""
    ranked = [evidence for evidence in block.evidence if evidence.row.ranked and evidence.row.metrics]
    metric = next((evidence.row.rank_metric for evidence in ranked), None)
    scored = [evidence for evidence in ranked if metric is not None and evidence.seeds(metric)]
    ranking = block.pairs.get(metric or "")
    best = next((evidence for evidence in scored if ranking and evidence.row.label == ranking.best), None)
    if metric is None or best is None or best.row.ties.get(metric) is None:
        return None
    tied = [evidence for evidence in scored if evidence.row.ties.get(metric) and evidence is not best]
    trained = [evidence for evidence in scored if evidence.row.method]
    pairs = len(scored) * (len(scored) - 1) // 2
    between_seeds = _between_seeds(trained, metric)
    ties = [
        _tie(evidence, best, metric, len(trained), pairs, between_seeds.get((evidence.row.label, best.row.label)))
        for evidence in tied
    ]
    best_seeds = best.seeds(metric)
    candidates = [evidence for evidence in (best, *tied) if evidence.row.method]
    return NextSteps(
        best.row.label,
        min((len(evidence.row.seeds) for evidence in trained), default=1),
        len(next(iter(best_seeds.values()))),
        sorted(ties, key=lambda tie: -abs(tie.difference)),
        {} if block.costs_differ else _cheapest(candidates),
    )


def _between_seeds(trained: Sequence[Evidence], metric: str) -> dict[tuple[str, str], float]:
    """Return the variance of the difference of each pair of rows between seeds, as all rows together show it."""
    seeds = {evidence.row.label: evidence.seeds(metric) for evidence in trained}
    by_seed = {pair: paired(seeds[pair[0]], seeds[pair[1]]).mean(axis=1) for pair in combinations(seeds, 2)}
    found = {pair: spread.variance for pair, spread in seed_spreads(by_seed, list(seeds)).items()}
    return found | {(second, first): variance for (first, second), variance in found.items()}


def _tie(evidence: Evidence, best: Evidence, metric: str, rows: int, pairs: int, between_seeds: float | None) -> Tie:
    """Return what would settle a tie.

    Args:
        evidence: the row that is tied with the best one.
        best: the best row.
        metric: the metric that ranks them.
        rows: number of rows that are trained.
        pairs: number of pairs of rows, for which p-values are corrected.
        between_seeds: variance of the difference between seeds; None if it is known from these two rows alone.
    """
    delta = paired(evidence.seeds(metric), best.seeds(metric))
    value, (seeds, examples) = abs(float(delta.mean())), delta.shape
    if not value or examples < 2:
        return Tie(evidence.row.label, float(delta.mean()), None, None)
    parts = _Parts.of(delta, between_seeds)
    tail = (1 - LEVEL) / 2 / pairs

    def enough(seeds: int, examples: int) -> bool:
        spread = parts.spread(seeds, examples, rows)
        return spread.error * (spread.quantile(tail) + spread.quantile(1 - POWER)) <= value

    fewest = bisect_left(range(MAX_EXAMPLES), True, lo=examples, key=lambda number: enough(seeds, number))
    more = next((number for number in range(seeds + 1, MAX_SEEDS + 1) if seeds > 1 and enough(number, examples)), None)
    return Tie(evidence.row.label, float(delta.mean()), None if fewest == MAX_EXAMPLES else fewest, more)


@dataclass(frozen=True)
class _Parts:
    """The parts of the variance of a difference, as in :func:`adapterzoo.comparison.spread.spread_of`."""

    seeds: float
    """variance between seeds, whatever the examples are; 0 with one seed, which shows nothing about others"""
    examples: float
    """variance between examples, whatever the seed is"""
    rest: float
    """variance that neither explains"""

    @classmethod
    def of(cls, delta: Scores, between_seeds: float | None = None) -> _Parts:
        """Return the parts of differences of shape (seeds, examples).

        Args:
            delta: the differences.
            between_seeds: variance of the mean of all examples between seeds; from the differences alone if None.
        """
        seeds, examples = delta.shape
        by_seed, by_example = delta.mean(axis=1), delta.mean(axis=0)
        if seeds == 1:
            return cls(0.0, float(by_example.var(ddof=1)), 0.0)
        residuals = delta - by_seed[:, None] - by_example + delta.mean()
        rest = float((residuals**2).sum()) / ((seeds - 1) * (examples - 1))
        seen = float(by_seed.var(ddof=1)) if between_seeds is None else between_seeds
        between = max(seen - rest / examples, 0.0)
        return cls(between, max(float(by_example.var(ddof=1)) - rest / seeds, 0.0), rest)

    def spread(self, seeds: int, examples: int, rows: int) -> Spread:
        """Return the spread that a difference would have with other numbers of seeds and examples."""
        of_seeds = self.seeds / seeds + self.rest / (seeds * examples)
        of_examples = self.examples / examples
        if seeds == 1:
            return Spread(sqrt(of_seeds + of_examples), 0.0, 0, examples - 1)
        df = expected_df(rows, seeds)
        total = max(of_seeds + of_examples, np.finfo(float).tiny)
        weight = (of_seeds / total) ** Caution.of(df, careful=True).exponent
        return Spread(sqrt(total), weight, df, examples - 1)


def _cheapest(candidates: Sequence[Evidence]) -> dict[str, str]:
    """Return cost -> label of the row with the lowest; without costs that are the same for all."""
    found = {}
    for cost in COSTS:
        values = {evidence.row.label: evidence.row.value(cost) for evidence in candidates}
        # A method that trains only a task's new head has 0 parameters of its own.
        if None not in values.values() and len(set(values.values())) > 1:
            found[cost] = min(values, key=lambda label: values[label])
    return found
