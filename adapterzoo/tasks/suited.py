"""Find the metrics in a recipe that say nothing about what a task learns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from adapterzoo.errors import Problem
from adapterzoo.metrics.registry import is_built_in


def unsuited_metrics(metrics: Sequence[str], suited: Collection[str], what: str) -> list[Problem]:
    """Return a problem for each built-in metric that is not suited to a task; of other metrics, the user must know.

    Args:
        metrics: names of the metrics that will be measured.
        suited: names of the built-in metrics that say something about what the task learns.
        what: what the task learns, for the message.
    """
    hint = f"Choose from: {', '.join(suited)}."
    return [
        Problem("evaluate.metrics", f"'{name}' says nothing about {what}.", hint)
        for name in metrics
        if is_built_in(name) and name not in suited
    ]
