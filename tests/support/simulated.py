"""Comparisons whose truth is known, to see how often intervals hold it and how often equal rows are called different.

``python tests/support/simulated.py`` prints the figures of docs/statistics.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from adapterzoo.comparison.statistics import differences, holm, interval, stack

# As the quickstart's seven methods on three seeds spread: any two of them disagree on 6 to 28 % of the answers, what
# one can answer and another cannot is 1.3 to 7 times what the seed changes, and seeds move a difference by 0 to 4
# points beyond that.
EXAMPLES, LASTING, MEAN = 5.0, 1.5, 3.2
SEED_SPREADS = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class World:
    """Rows that are equal in truth."""

    right_or_wrong: bool
    seeds: int
    examples: int
    rows: int = 2
    seed_spread: float = 0.2
    unstable: float | None = None
    """the spread between seeds of the first row, where it is another one"""

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Scores of shape (rows, seeds, examples)."""
        spread = self.seed_spread if self.seeds > 1 else 0.0  # of one seed, intervals speak of that seed alone
        easy = rng.normal(MEAN, EXAMPLES, self.examples)
        suits = rng.normal(0, LASTING, (self.rows, 1, self.examples))
        lucky = rng.normal(0, spread, (self.rows, self.seeds, 1))
        if self.unstable is not None:
            lucky[0] *= self.unstable / spread
        latent = easy + suits + lucky
        noise = rng.logistic(size=(self.rows, self.seeds, self.examples))
        return (latent + noise > 0).astype(float) if self.right_or_wrong else latent + noise

    @property
    def truth(self) -> float:
        """The mean of every row."""
        if not self.right_or_wrong:
            return MEAN
        spread = self.seed_spread if self.seeds > 1 else 0.0
        deviation = np.sqrt(EXAMPLES**2 + LASTING**2 + spread**2)
        return float(expit(np.random.default_rng(0).normal(MEAN, deviation, 2_000_000)).mean())


def coverage(world: World, times: int, seed: int = 0) -> tuple[float, float]:
    """How often the interval of the second row's mean, and that of its difference to the first, hold the truth."""
    rng, truth = np.random.default_rng(seed), world.truth
    of_mean = of_difference = 0
    for _ in range(times):
        rows = {str(i): dict(enumerate(scores)) for i, scores in enumerate(world.draw(rng))}
        low, high = interval(stack(rows["1"]), right_or_wrong=world.right_or_wrong) or (np.nan, np.nan)
        of_mean += low <= truth <= high
        found = differences(rows, right_or_wrong=world.right_or_wrong)["0", "1"]
        low, high = found.interval or (np.nan, np.nan)
        of_difference += low <= 0 <= high
    return of_mean / times, of_difference / times


def false_claims(world: World, times: int, seed: int = 0) -> tuple[float, float]:
    """How often equal rows are given a winner, and how often any of them is called worse than the best."""
    rng = np.random.default_rng(seed)
    winners = worse = 0
    for _ in range(times):
        rows = world.draw(rng)
        labels = [str(number) for number in range(world.rows)]
        seeds = {label: dict(enumerate(scores)) for label, scores in zip(labels, rows, strict=True)}
        found = differences(seeds, right_or_wrong=world.right_or_wrong)
        pairs = [(one, two) for i, one in enumerate(labels) for two in labels[i + 1 :]]
        p = dict(zip(pairs, holm([found[pair].p or 0.0 for pair in pairs]), strict=True))
        best = labels[int(rows.mean(axis=(1, 2)).argmax())]
        to_best = [value for pair, value in p.items() if best in pair]
        winners += max(to_best) < 0.05
        worse += min(to_best) < 0.05
    return winners / times, worse / times


def _figures(times: int) -> Iterator[str]:
    yield "| scores | seeds | test examples | spread between seeds | interval of a mean | interval of a difference |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for kind in (True, False):
        for seeds in (1, 3, 5):
            for examples in (50, 200, 1000):
                for spread in SEED_SPREADS if seeds > 1 else (0.0,):
                    found = coverage(World(kind, seeds, examples, seed_spread=spread), times)
                    shown = " | ".join(f"{100 * one:.1f} %" for one in found)
                    name = "right or wrong" if kind else "a number"
                    yield f"| {name} | {seeds} | {examples} | {spread:g} | {shown} |"
    yield ""
    yield "| scores | seeds | test examples | first of 7 rows | interval of its difference | any row is called worse |"
    yield "| --- | ---: | ---: | --- | ---: | ---: |"
    for kind in (True, False):
        for seeds in (2, 3, 5):
            for examples in (300, 1000):
                for name, unstable in (("like the others", None), ("4 times their spread", 4 * SEED_SPREADS[0])):
                    world = World(kind, seeds, examples, 7, SEED_SPREADS[0 if unstable else 1], unstable)
                    held, worse = coverage(world, times // 4)[1], false_claims(world, times // 4)[1]
                    shown = f"{100 * held:.1f} % | {100 * worse:.1f} %"
                    yield f"| {'right or wrong' if kind else 'a number'} | {seeds} | {examples} | {name} | {shown} |"
    yield ""
    yield "| scores | seeds | test examples | rows | a winner is named | any row is called worse |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for kind in (True, False):
        for seeds in (1, 3, 5):
            for examples in (50, 300, 1000):
                for rows in (2, 5, 12):
                    found = false_claims(World(kind, seeds, examples, rows), max(times * 4 // rows**2, 200))
                    shown = " | ".join(f"{100 * one:.1f} %" for one in found)
                    yield f"| {'right or wrong' if kind else 'a number'} | {seeds} | {examples} | {rows} | {shown} |"


if __name__ == "__main__":
    for line in _figures(int(sys.argv[1]) if len(sys.argv) > 1 else 2000):
        print(line, flush=True)
