"""The settings that tuning tries: every method gets the same points of the same ranges, in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapterzoo.prepare.plan import MethodCell

LEARNING_RATE = "learning_rate"


def chosen(cell: MethodCell, settings: Mapping[str, Any]) -> MethodCell:
    """The cell with other settings."""
    options = {name: value for name, value in settings.items() if name != LEARNING_RATE}
    rate = settings.get(LEARNING_RATE, cell.learning_rate)
    return replace(cell, options={**cell.options, **options}, learning_rate=rate)


def space(cell: MethodCell) -> dict[str, Any]:
    """What is tried, as plain data."""
    return {
        "trials": cell.trials,
        "ranges": {name: one.model_dump(exclude_none=True, exclude={"trials"}) for name, one in cell.ranges.items()},
    }


def points(cell: MethodCell) -> list[dict[str, Any]]:
    """The settings to try, the cell's own first where the ranges hold them."""
    if not cell.ranges:
        return []
    from scipy.stats import qmc

    own = {name: cell.learning_rate if name == LEARNING_RATE else cell.options.get(name) for name in cell.ranges}
    found = [own] if all(one.holds(own[name]) for name, one in cell.ranges.items()) else []
    # Each option has its own dimension, whatever else a method has of those that are tuned.
    tuned = cell.tuned or tuple(sorted(cell.ranges))
    sequence = qmc.Halton(len(tuned), rng=0)
    for _ in range(20 * cell.trials):  # ranges may hold fewer different settings
        if len(found) >= cell.trials:
            break
        shares = dict(zip(tuned, sequence.random(1)[0], strict=True))
        point = {name: one.at(float(shares[name])) for name, one in cell.ranges.items()}
        if point not in found:
            found.append(point)
    return found
