"""Simulate tables of 2 to 40 rows with a few seeds, and count how often intervals and calls are right.

``python bench/seed_spread.py`` prints the table of docs/statistics.md about tables of any size. It takes a quarter of
an hour on one core; ``--draws 100`` is a first look.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from adapterzoo.comparison.statistics import LEVEL, differences, holm

DIFFICULTIES = (-1.0, 0.0, 1.0)  # examples are hard, neither, or easy
INTERACTION = 0.7  # standard deviation of what a row does better on an example than on others, whatever the seed
LOWEST = 2.0  # how far the last row of a graded table is behind the first


@dataclass(frozen=True)
class Table:
    """A table of rows; the standard deviation of a score, between seeds of one row and one example, is 1."""

    rows: int
    seeds: int
    seed_spread: float = 0.25
    """standard deviation of what a seed adds to all scores of a row"""
    kind: str = "alike"
    """``alike``: seeds move all rows as much; ``one``: the first row four times as much; ``differ``: as an inverse
    chi-square with 4 degrees of freedom"""
    right_or_wrong: bool = False
    """whether a score is 1 if it were above 0, and 0 if not"""
    examples: int = 100

    def draw(self, rng: np.random.Generator, lowest: float) -> NDArray[np.float64]:
        """Return random scores of shape (rows, seeds, examples); the last row is ``lowest`` behind the first."""
        spread = np.full(self.rows, self.seed_spread)
        if self.kind == "one":
            spread[0] *= 4
        elif self.kind == "differ":
            spread *= np.sqrt(2 / rng.chisquare(4, self.rows))  # the mean of the variances is seed_spread squared
        scores = rng.choice(DIFFICULTIES, self.examples) + rng.normal(size=(self.rows, self.seeds, self.examples))
        scores += rng.normal(0, INTERACTION, (self.rows, 1, self.examples))
        scores += rng.normal(size=(self.rows, self.seeds, 1)) * spread[:, None, None]
        scores -= np.linspace(0, lowest, self.rows)[:, None, None]
        return (scores > 0).astype(float) if self.right_or_wrong else scores


@dataclass(frozen=True)
class Measured:
    """The shares of tables, rows or pairs for which something happened."""

    covered: float
    """intervals of a difference that hold the true one, of equal rows"""
    covered_first: float
    """the same for the differences of the first row"""
    false_calls: float
    """tables of equal rows in which a row is called worse than the best"""
    found: float
    """rows of a graded table, without the best, that are called worse"""
    jumps: float
    """rows of a graded table that are tied with the best although a row nearer to it is called worse, divided by the
    number of rows that are called worse"""


def measure(table: Table, draws: int, seed: int = 0) -> Measured:
    """Return what happens in some random tables of equal rows, and in as many graded ones."""
    rng = np.random.default_rng(seed)
    covered, covered_first, false_calls, found, jumps = [], [], [], [], []
    for _ in range(draws):
        intervals, _, worse = _compare(table.draw(rng, 0.0), table)
        held = {pair: low <= 0 <= high for pair, (low, high) in intervals.items()}
        covered += held.values()
        covered_first += [hold for pair, hold in held.items() if pair[0] == 0]
        false_calls.append(any(worse.values()))
        _, behind, worse = _compare(table.draw(rng, LOWEST), table)
        found += worse.values()
        nearest = min((behind[row] for row, called in worse.items() if called), default=np.inf)
        jumps += [behind[row] > nearest for row, called in worse.items() if not called]
    shares = [float(np.mean(what)) for what in (covered, covered_first, false_calls, found)]
    return Measured(*shares, jumps=sum(jumps) / max(sum(found), 1))


def _compare(
    scores: NDArray[np.float64], table: Table
) -> tuple[dict[tuple[int, int], tuple[float, float]], dict[int, float], dict[int, bool]]:
    """Return the interval of each pair, how far each row is behind the best, and which rows are called worse."""
    rows = {str(number): dict(enumerate(of_row)) for number, of_row in enumerate(scores)}
    by_pair = differences(rows, right_or_wrong=table.right_or_wrong)
    pairs = list(combinations(range(table.rows), 2))
    found = {pair: by_pair[str(pair[0]), str(pair[1])] for pair in pairs}
    corrected = dict(zip(pairs, holm([1.0 if found[p].p is None else found[p].p or 0.0 for p in pairs]), strict=True))
    means = scores.mean(axis=(1, 2))
    best = int(means.argmax())
    others = [row for row in range(table.rows) if row != best]
    worse = {row: corrected[min(row, best), max(row, best)] < 1 - LEVEL for row in others}
    return (
        {pair: difference.interval or (0.0, 0.0) for pair, difference in found.items()},
        {row: float(means[best] - means[row]) for row in others},
        worse,
    )


def tables() -> Iterator[Table]:
    """Yield the tables that docs/statistics.md shows."""
    for seeds in (2, 3):
        for rows in (2, 3, 5, 10, 20, 40):
            yield Table(rows, seeds)
        for rows in (2, 10):
            yield Table(rows, seeds, 0.0)
            yield Table(rows, seeds, 1.0)
        for rows in (3, 5, 20):
            yield Table(rows, seeds, kind="one")
        yield Table(10, seeds, kind="differ")
        for rows in (2, 5, 20):
            yield Table(rows, seeds, right_or_wrong=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--draws",
        type=int,
        default=2000,
        help="draws for two rows; 1.2 times as many, divided by the number of rows, for more",
    )
    parser.add_argument("--rows", type=int, help="only tables of this many rows")
    chosen = parser.parse_args()
    print(
        "| scores | seeds | rows | spread between seeds | intervals | of the first row | false calls | found | jumps |"
    )
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for table in tables():
        if chosen.rows in (None, table.rows):
            measured = measure(table, chosen.draws if table.rows == 2 else chosen.draws * 6 // 5 // table.rows)
            shares = (measured.covered, measured.covered_first, measured.false_calls, measured.found, measured.jumps)
            kind = {"alike": "", "one": ", first row 4 times", "differ": ", rows differ"}[table.kind]
            name = "right or wrong" if table.right_or_wrong else "a number"
            shown = " | ".join(f"{100 * share:.1f} %" for share in shares)
            print(f"| {name} | {table.seeds} | {table.rows} | {table.seed_spread:g}{kind} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
