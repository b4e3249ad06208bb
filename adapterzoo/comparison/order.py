"""The columns that rows can be ordered by, and which of two values is the better one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from adapterzoo.metrics.measured import BY_COLUMN
from adapterzoo.results.row import Row

# Column -> the function that picks the better of two values. Metrics that are not listed are better if they are higher,
# unless the result says otherwise. In all other columns, such as the learning rate, no value is better.
HIGHER, LOWER = max, min
BETTER = {
    "trainable_params": LOWER,
    "adapter_bytes": LOWER,
    "train_seconds": LOWER,
    "answer_seconds": LOWER,
    "total_seconds": LOWER,
    "cost": LOWER,
    "tokens_per_second": HIGHER,
    "peak_memory_bytes": LOWER,
    **{column: LOWER if measure.better == "lower" else HIGHER for column, measure in BY_COLUMN.items()},
}


def metric_columns(rows: Iterable[Row]) -> list[str]:
    """Return the columns of all metrics: first those of answers, in the recipe's order."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    measured = [*BY_COLUMN]
    return sorted(names, key=lambda name: measured.index(name) + 1 if name in BY_COLUMN else 0)


def better(rows: Sequence[Row], column: str) -> Callable[..., Any] | None:
    """Return the function that picks the better value of a column, ``max`` or ``min``; None if no value is better."""
    if column in BETTER or not any(column in row.metrics for row in rows):
        return BETTER.get(column)
    return LOWER if any(column in row.lower_is_better for row in rows) else HIGHER
