"""The reward of answers: a task measures it itself, because a reward may need more of a row than its right answer."""

from __future__ import annotations

import math

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metric of this module."""
    style = ColumnStyle("reward", bounds=(-math.inf, math.inf))
    return [Metric("mean_reward", None, "Mean reward of the greedy answers", styles={"mean_reward": style})]
