"""A row of a comparison: all seeds of one label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adapterzoo.results.result import Tuning

Interval = tuple[float, float]
# Fields of a row with this mark are means over the seeds that finished. Other fields that rows and results have in
# common have one value for all seeds.
IS_MEAN = "is_mean"
MEAN = {IS_MEAN: True}


@dataclass
class Row:
    """All seeds of one label, as means over those that finished. Every field is a key of ``compare --format json``."""

    __pydantic_config__ = {"use_attribute_docstrings": True}  # for its schema  # noqa: RUF012

    label: str
    """label in the recipe; the folder's name follows it if two folders have different rows with this label"""
    method: str | None
    """None for the untouched base model"""
    status: str
    """``ok``, or ``failed`` if a seed failed"""
    error: str | None
    """why seeds failed"""
    seeds: list[int]
    """seeds that the row's numbers come from"""
    metrics: dict[str, float]
    """metric -> mean over the seeds"""
    intervals: dict[str, Interval]
    """metric -> low and high end of its 95 % interval, over seeds and examples; with one seed, over examples alone"""
    unproven: list[str]
    """a sentence for each cell whose files do not show all its scores: which metrics have no interval, and why"""
    damaged: list[str]
    """adapter files that were changed or removed after the run wrote them"""
    examples: int | None
    """number of test examples that the intervals are computed from"""
    trainable_params: int
    """number of parameters that were trained, without those of a new head"""
    head_params: int
    """number of parameters of a task's new head, which every method trains; 0 if there is none"""
    total_params: int
    """number of parameters of the base model and the adapter together"""
    adapter_bytes: int
    """size of the adapter's files"""
    train_seconds: float | None = field(metadata=MEAN)
    """seconds that training took, mean over the seeds"""
    evaluate_seconds: float | None = field(metadata=MEAN)
    """seconds that measuring took, mean over the seeds"""
    seconds: dict[str, float]
    """activity, such as training or saving -> its seconds, mean over the seeds"""
    answer_seconds: float | None = field(metadata=MEAN)
    """seconds that one answer took, mean over the seeds"""
    tune_seconds: float | None
    """seconds that all trials together took"""
    total_seconds: float
    """seconds of tuning, training and measuring, all seeds together"""
    tokens_per_second: float | None = field(metadata=MEAN)
    """speed of training, mean over the seeds"""
    peak_memory_bytes: float | None = field(metadata=MEAN)
    """highest memory use of a cell (on a GPU, of the GPU's memory), mean over the seeds"""
    learning_rate: float | None
    quantization: str
    """quantization of the base model"""
    plugin: str | None
    """package that the method comes from, with its version"""
    options: dict[str, Any]
    """option of the method -> value"""
    lower_is_better: list[str]
    """metrics for which a lower value is better"""
    adjusted: dict[str, str]
    """option whose value the method changed in some layers -> the change"""
    broken_rules: dict[str, str]
    """rule of the comparison that the method broke and does not declare -> what it did; such a row is not ranked"""
    declared_departures: dict[str, str]
    """rule of the comparison that the method declares to depart from -> what it did"""
    budget: int | None
    """number of trainable parameters that the recipe asked for"""
    tuning: Tuning | None
    """trials on the validation rows, and what was chosen"""
    fingerprints: dict[str, str | None]
    """hashes of the recipe, the data and the base model's weights"""
    environment: dict[str, Any]
    """package versions and hardware"""
    history: list[dict[str, float]] = field(default_factory=list)
    """loss by step, of the first seed"""
    block: int = 0
    """number of the row's block; rows of different blocks cannot be compared"""
    rank_metric: str | None = None
    """metric of the difference, its interval, its p-value and ``tied``"""
    difference: float | None = None
    """score of this row minus the score of the best row of the block, or of the row named by ``against``"""
    difference_interval: Interval | None = None
    """low and high end of the difference's 95 % interval"""
    p_value: float | None = None
    """p-value of the difference, corrected (Holm) for all pairs of rows; with ``against``, for pairs with that row"""
    tied: bool | None = None
    """whether the row is tied with the best row, or with the row named by ``against``; None if that is not known"""
    ties: dict[str, bool | None] = field(default_factory=dict)
    """metric -> whether the row is tied with the best row of this metric; None if that is not known"""
    serving: dict[str, Any] | None = None
    """how the adapter of the first seed can be served, and what its answers cost; None if it was not tried"""
    cost: float | None = None
    """cost of ``total_seconds`` at the price that was given"""

    @property
    def ranked(self) -> bool:
        """Whether the row is compared with others: whether its method kept the rules, or declares how it departs."""
        return not self.broken_rules

    def value(self, column: str) -> Any:
        """Return the value of a metric or of any other column; None for what the untouched base model does not have."""
        if self.method is None and column in ("trainable_params", "adapter_bytes"):
            return None
        return self.metrics.get(column) if column not in self.__dataclass_fields__ else getattr(self, column)

    def record(self) -> dict[str, Any]:
        """Return the row as in ``compare --format json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
