"""A row of a comparison: all seeds of one label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterzoo.results.result import FORGETTING, Tuning

Interval = tuple[float, float]
# Which of two values is the better one; of the rest (learning rate, base) neither is, and of a metric the higher,
# unless the result says otherwise.
HIGHER, LOWER = max, min
BETTER = {
    "test_loss": LOWER,
    "perplexity": LOWER,
    FORGETTING: LOWER,
    "trainable_params": LOWER,
    "adapter_bytes": LOWER,
    "train_seconds": LOWER,
    "answer_seconds": LOWER,
    "total_seconds": LOWER,
    "cost": LOWER,
    "tokens_per_second": HIGHER,
    "peak_memory_bytes": LOWER,
}
# What has no say in the order of rows while answers are compared.
LIKELIHOOD = ("test_loss", "perplexity", "token_accuracy", FORGETTING)


@dataclass
class Row:
    """All seeds of one label, as means over those that finished. Every field is a key of ``compare --format json``."""

    __pydantic_config__ = {"use_attribute_docstrings": True}  # for its schema  # noqa: RUF012

    label: str
    """the one of the recipe; with its folder behind it where two folders have different rows of that label"""
    method: str | None
    """None for the untouched base"""
    status: str
    """``ok``, or ``failed`` where a seed failed"""
    error: str | None
    seeds: list[int]
    metrics: dict[str, float]
    """metric -> mean over the seeds"""
    intervals: dict[str, Interval]
    """metric -> low and high end of its 95 % interval, over seeds and examples; of one seed over examples alone"""
    unproven: list[str]
    """files of answers that are missing, damaged or of other answers, and the metrics that have no interval for it"""
    damaged: list[str]
    """files of its adapters that are not what the run wrote"""
    examples: int | None
    """how many test examples the intervals are of"""
    trainable_params: int
    total_params: int
    adapter_bytes: int
    train_seconds: float | None
    evaluate_seconds: float | None
    seconds: dict[str, float]
    """what was done -> how long that took, mean over the seeds"""
    answer_seconds: float | None
    """that one answer took"""
    tune_seconds: float | None
    """of all trials"""
    total_seconds: float
    """of tuning, training and measuring, all seeds together"""
    tokens_per_second: float | None
    peak_memory_bytes: float | None
    learning_rate: float | None
    quantization: str
    """of the base model"""
    plugin: str | None
    """the package that brought the method, with its version"""
    options: dict[str, Any]
    lower_is_better: list[str]
    adjusted: dict[str, str]
    """options that could not be had in every layer -> what became of them"""
    budget: int | None
    """trainable parameters that were asked for"""
    tuning: Tuning | None
    fingerprints: dict[str, str | None]
    environment: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    """loss by step, of the first seed"""
    block: int = 0
    """rows of different blocks cannot be compared"""
    rank_metric: str | None = None
    """the metric of the next fields"""
    difference: float | None = None
    """to the best row of the block, or to the one that was named"""
    difference_interval: Interval | None = None
    p_value: float | None = None
    """of that difference, corrected for all pairs of rows, or for the rows beside the one that was named (Holm)"""
    tied: bool | None = None
    """not distinguishable from the best, or from the one that was named; None where that is not known"""
    ties: dict[str, bool | None] = field(default_factory=dict)
    """metric -> whether not distinguishable from the best of it"""
    cost: float | None = None
    """``total_seconds`` at the price that was given"""

    def value(self, column: str) -> Any:
        """The value of a metric or of any other column; None of what the untouched base does not have."""
        if self.method is None and column in ("trainable_params", "adapter_bytes"):
            return None
        return self.metrics.get(column) if column not in self.__dataclass_fields__ else getattr(self, column)

    def record(self) -> dict[str, Any]:
        """As in ``compare --format json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def metric_columns(rows: Iterable[Row]) -> list[str]:
    """The columns of all metrics: those that compare answers, as the recipe has them, and then likelihoods."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return sorted(names, key=lambda name: LIKELIHOOD.index(name) + 1 if name in LIKELIHOOD else 0)


def better(rows: Sequence[Row], column: str) -> Callable[..., Any] | None:
    """``max`` or ``min`` of a column's values; None where there is no better and worse."""
    if column in BETTER or not any(column in row.metrics for row in rows):
        return BETTER.get(column)
    return LOWER if any(column in row.lower_is_better for row in rows) else HIGHER
