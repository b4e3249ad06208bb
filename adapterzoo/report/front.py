"""The Pareto front: what no other row beats in both, score and cost; the same in every form of a comparison."""

from __future__ import annotations

from collections.abc import Mapping


def front(places: Mapping[int, tuple[float, float]]) -> list[int]:
    """Those that no other is as good as for less, or better than for as much; the cheapest first.

    Args:
        places: cost and score of each, of both of which less is better.
    """
    beaten = {
        one
        for one, (cost, score) in places.items()
        for other in places.values()
        if other[0] <= cost and other[1] <= score and other != (cost, score)
    }
    return sorted(places.keys() - beaten, key=lambda one: (places[one], one))
