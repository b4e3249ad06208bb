"""The Pareto front: the rows that no other row beats in score and in cost; the same in every form of a comparison."""

from __future__ import annotations

from collections.abc import Mapping


def pareto_front(places: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the rows that no other row beats, the cheapest first.

    A row is beaten by one that is as good and costs less, or is better and costs no more.

    Args:
        places: number of a row -> its cost and score; the lower value of both must be the better one.
    """
    beaten = {
        row
        for row, (cost, score) in places.items()
        for other_cost, other_score in places.values()
        if other_cost <= cost and other_score <= score and (other_cost, other_score) != (cost, score)
    }
    return sorted(places.keys() - beaten, key=lambda row: (places[row], row))
