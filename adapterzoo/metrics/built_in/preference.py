"""Metrics of preferences: a task measures them itself, because they compare what a model thinks of two answers."""

from __future__ import annotations

import math

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    return [
        Metric(
            "likelihood_accuracy", None,
            "Share of pairs whose chosen answer is likelier per token than the rejected one (0 to 1); a tie is wrong",
            right_or_wrong=True,
            styles={"likelihood_accuracy": ColumnStyle(
                "likelier", ".3f", "likelier: share of pairs whose chosen answer is likelier per token", (0.0, 1.0)
            )},
        ),
        Metric(
            "reward_accuracy", None,
            "Share of pairs whose chosen answer has the higher reward (0 to 1); a tie is wrong",
            right_or_wrong=True,
            styles={"reward_accuracy": ColumnStyle(
                "preferred", ".3f", "preferred: share of pairs whose chosen answer has the higher reward", (0.0, 1.0)
            )},
        ),
        Metric(
            "reward_margin", None, "Mean of the reward of the chosen answer minus that of the rejected one",
            styles={"reward_margin": ColumnStyle(
                "margin", "+.3f", "margin: reward of the chosen answer minus that of the rejected one",
                (-math.inf, math.inf),
            )},
        ),
    ]  # fmt: skip
