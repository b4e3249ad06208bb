"""List the settings that tuning tries: every method gets the same settings from the same ranges, in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapterzoo.prepare.plan import MethodCell

LEARNING_RATE = "learning_rate"


def with_settings(cell: MethodCell, settings: Mapping[str, Any]) -> MethodCell:
    """Return a copy of a cell with other settings."""
    options = {name: value for name, value in settings.items() if name != LEARNING_RATE}
    rate = settings.get(LEARNING_RATE, cell.learning_rate)
    return replace(cell, options={**cell.options, **options}, learning_rate=rate)


def space(cell: MethodCell) -> dict[str, Any]:
    """Return a cell's ranges and number of trials, as plain data."""
    ranges = {name: values.model_dump(exclude_none=True, exclude={"trials"}) for name, values in cell.ranges.items()}
    return {"trials": cell.trials, "ranges": ranges}


def points(cell: MethodCell) -> list[dict[str, Any]]:
    """Return the settings to try; the cell's own settings come first if they are in the ranges."""
    if not cell.ranges:
        return []
    from scipy.stats import qmc

    own = {name: cell.learning_rate if name == LEARNING_RATE else cell.options.get(name) for name in cell.ranges}
    settings = [own] if all(values.holds(own[name]) for name, values in cell.ranges.items()) else []
    # Each tuned option of the recipe has its own dimension, so all methods that have the option get the same values.
    tuned = cell.tuned or tuple(sorted(cell.ranges))
    sequence = qmc.Halton(len(tuned), rng=0)
    for _ in range(20 * cell.trials):  # there is a limit, because the ranges may have too few different settings
        if len(settings) >= cell.trials:
            break
        shares = dict(zip(tuned, sequence.random(1)[0], strict=True))
        point = {name: values.at(float(shares[name])) for name, values in cell.ranges.items()}
        if point not in settings:
            settings.append(point)
    return settings
