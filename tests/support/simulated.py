"""Simulate comparisons of rows that are truly equal, to count how often intervals and claims are wrong.

``python tests/support/simulated.py`` prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from adapterzoo.comparison.statistics import differences, holm, interval, stack

# These standard deviations resemble the quickstart with seven methods and three seeds. Any two disagree on 6 to 28 %
# of the answers; lasting differences between methods are 1.3 to 7 times as large as the change from seed to seed; and
# seeds change a difference of means by 0 to 4 points beyond that.
EXAMPLE_SPREAD, METHOD_SPREAD, MEAN = 5.0, 1.5, 3.2
SEED_SPREADS = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Simulation:
    """A comparison of rows whose true means are equal."""

    right_or_wrong: bool
    """whether each score is 0 or 1"""
    seeds: int
    """number of seeds of each row"""
    examples: int
    """number of test examples"""
    rows: int = 2
    """number of rows"""
    seed_spread: float = 0.2
    """standard deviation between seeds"""
    unstable: float | None = None
    """standard deviation between the seeds of the first row, if it differs"""

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return random scores of shape (rows, seeds, examples)."""
        spread = self.seed_spread if self.seeds > 1 else 0.0  # with one seed, an interval is about that seed only
        example_effect = rng.normal(MEAN, EXAMPLE_SPREAD, self.examples)
        row_effect = rng.normal(0, METHOD_SPREAD, (self.rows, 1, self.examples))
        seed_effect = rng.normal(0, spread, (self.rows, self.seeds, 1))
        if self.unstable is not None:
            seed_effect[0] *= self.unstable / spread
        latent = example_effect + row_effect + seed_effect
        noise = rng.logistic(size=(self.rows, self.seeds, self.examples))
        return (latent + noise > 0).astype(float) if self.right_or_wrong else latent + noise

    @property
    def truth(self) -> float:
        """Return the true mean of every row."""
        if not self.right_or_wrong:
            return MEAN
        spread = self.seed_spread if self.seeds > 1 else 0.0
        deviation = np.sqrt(EXAMPLE_SPREAD**2 + METHOD_SPREAD**2 + spread**2)
        return _mean_share(deviation)


@cache
def _mean_share(deviation: float) -> float:
    """Return the mean probability of a right answer."""
    return float(expit(np.random.default_rng(0).normal(MEAN, deviation, 2_000_000)).mean())


def coverage(simulation: Simulation, times: int, seed: int = 0) -> tuple[float, float]:
    """Return how often the intervals of the second row's mean, and of its difference to the first, contain the truth.

    Args:
        simulation: the comparison.
        times: the number of repetitions.
        seed: the seed of the random numbers.

    Returns:
        Two shares between 0 and 1.
    """
    rng, truth = np.random.default_rng(seed), simulation.truth
    of_mean = of_difference = 0
    for _ in range(times):
        rows = {str(number): dict(enumerate(scores)) for number, scores in enumerate(simulation.draw(rng))}
        low, high = interval(stack(rows["1"]), right_or_wrong=simulation.right_or_wrong) or (np.nan, np.nan)
        of_mean += low <= truth <= high
        difference = differences(rows, right_or_wrong=simulation.right_or_wrong)["0", "1"]
        low, high = difference.interval or (np.nan, np.nan)
        of_difference += low <= 0 <= high
    return of_mean / times, of_difference / times


def false_claims(simulation: Simulation, times: int, seed: int = 0) -> tuple[float, float]:
    """Return how often one of the equal rows is called the best, and how often any is called worse than the best."""
    rng = np.random.default_rng(seed)
    winners = worse = 0
    for _ in range(times):
        rows = simulation.draw(rng)
        labels = [str(number) for number in range(simulation.rows)]
        seeds = {label: dict(enumerate(scores)) for label, scores in zip(labels, rows, strict=True)}
        by_pair = differences(seeds, right_or_wrong=simulation.right_or_wrong)
        pairs = list(combinations(labels, 2))
        p_values = dict(zip(pairs, holm([by_pair[pair].p or 0.0 for pair in pairs]), strict=True))
        best = labels[int(rows.mean(axis=(1, 2)).argmax())]
        to_best = [p_value for pair, p_value in p_values.items() if best in pair]
        winners += max(to_best) < 0.05
        worse += min(to_best) < 0.05
    return winners / times, worse / times


def _tables(times: int) -> Iterator[str]:
    """Yield the lines of the three tables of docs/statistics.md."""
    yield "| scores | seeds | test examples | spread between seeds | interval of a mean | interval of a difference |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for kind in (True, False):
        for seeds in (1, 3, 5):
            for examples in (50, 200, 1000):
                for spread in SEED_SPREADS if seeds > 1 else (0.0,):
                    shares = coverage(Simulation(kind, seeds, examples, seed_spread=spread), times)
                    shown = " | ".join(f"{100 * share:.1f} %" for share in shares)
                    name = "right or wrong" if kind else "a number"
                    yield f"| {name} | {seeds} | {examples} | {spread:g} | {shown} |"
    yield ""
    yield "| scores | seeds | test examples | first of 7 rows | interval of its difference | any row is called worse |"
    yield "| --- | ---: | ---: | --- | ---: | ---: |"
    for kind in (True, False):
        for seeds in (2, 3, 5):
            for examples in (300, 1000):
                for name, unstable in (("like the others", None), ("4 times their spread", 4 * SEED_SPREADS[0])):
                    simulation = Simulation(kind, seeds, examples, 7, SEED_SPREADS[0 if unstable else 1], unstable)
                    covered, worse = coverage(simulation, times // 4)[1], false_claims(simulation, times // 4)[1]
                    shown = f"{100 * covered:.1f} % | {100 * worse:.1f} %"
                    yield f"| {'right or wrong' if kind else 'a number'} | {seeds} | {examples} | {name} | {shown} |"
    yield ""
    yield "| scores | seeds | test examples | rows | a winner is named | any row is called worse |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for kind in (True, False):
        for seeds in (1, 3, 5):
            for examples in (50, 300, 1000):
                for rows in (2, 5, 12):
                    shares = false_claims(Simulation(kind, seeds, examples, rows), max(times * 4 // rows**2, 200))
                    shown = " | ".join(f"{100 * share:.1f} %" for share in shares)
                    yield f"| {'right or wrong' if kind else 'a number'} | {seeds} | {examples} | {rows} | {shown} |"


if __name__ == "__main__":
    for line in _tables(int(sys.argv[1]) if len(sys.argv) > 1 else 2000):
        print(line, flush=True)
