"""A row of a comparison: all seeds of one label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from adapterzoo.comparable import hardware
from adapterzoo.results import Result, Tuning
from adapterzoo.scores import Column, cell_scores
from adapterzoo.statistics import Seeds

Interval = tuple[float, float]


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
    examples: int | None
    """how many test examples the intervals are of"""
    trainable_params: int
    total_params: int
    adapter_bytes: int
    train_seconds: float | None
    evaluate_seconds: float | None
    answer_seconds: float | None
    """that one answer took"""
    tune_seconds: float | None
    """of all trials"""
    total_seconds: float
    """of tuning, training and measuring, all seeds together"""
    tokens_per_second: float | None
    peak_memory_bytes: float | None
    learning_rate: float | None
    base: str
    """quantization of the base"""
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
    """of that difference, corrected for the number of rows (Holm)"""
    tied: bool | None = None
    """not distinguishable from the best, or from the one that was named; None where that is not known"""
    ties: dict[str, bool | None] = field(default_factory=dict)
    """metric -> whether not distinguishable from the best of it"""
    cost: float | None = None
    """``total_seconds`` at the price that was given"""

    def value(self, column: str) -> Any:
        """The value of a metric or of any other column."""
        return self.metrics.get(column) if column not in self.__dataclass_fields__ else getattr(self, column)

    def record(self) -> dict[str, Any]:
        """As in ``compare --format json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass
class Evidence:
    """What is behind a row."""

    row: Row
    results: list[Result]
    folders: list[Path]
    """of the cells, as the results"""
    scores: dict[str, dict[int | None, Column]]
    """metric -> seed -> what each test example scored"""

    def seeds(self, metric: str) -> Seeds:
        """The scores of a metric; none where they are not of every seed that is in the mean."""
        columns = self.scores.get(metric, {})
        if len(columns) < len(self.row.seeds):
            return {}
        return {seed: column.values for seed, column in columns.items()}

    def right_or_wrong(self, metric: str) -> bool:
        """Whether an example of this metric is right or wrong, and nothing between."""
        return all(column.right_or_wrong for column in self.scores.get(metric, {}).values())


def make(label: str, group: Sequence[tuple[Path, Result]]) -> Evidence:
    """The row of one label.

    Args:
        label: as it is shown.
        group: its cells, each with its folder; at least one.
    """
    results = [result for _, result in group]
    done = [result for result in results if result.ok and result.metrics]
    failed = [result for result in results if not result.ok]
    shown = done or failed or results
    first = shown[0]
    scores: dict[str, dict[int | None, Column]] = {}
    for folder, result in group:
        if result in done:
            for name, column in cell_scores(folder, result).items():
                scores.setdefault(name, {})[result.seed if result.method else None] = column
    row = Row(
        label=label,
        method=first.method,
        status="failed" if failed else "ok",
        error="; ".join(f"seed {one.seed}: {one.error}" if len(group) > 1 else str(one.error) for one in failed)
        or None,
        seeds=[result.seed for result in shown],
        metrics={
            name: fmean(result.metrics[name] for result in done)
            for name in first.metrics
            if all(name in result.metrics for result in done)
        },
        intervals={},
        examples=None,
        trainable_params=first.trainable_params,
        total_params=first.total_params,
        adapter_bytes=first.adapter_bytes,
        train_seconds=_mean(result.train_seconds for result in done),
        evaluate_seconds=_mean(result.evaluate_seconds for result in done),
        answer_seconds=_mean(result.answer_seconds for result in done),
        tune_seconds=_tune_seconds(first),
        total_seconds=sum((one.train_seconds or 0.0) + (one.evaluate_seconds or 0.0) for one in done)
        + (_tune_seconds(first) or 0.0),
        tokens_per_second=_mean(result.tokens_per_second for result in done),
        peak_memory_bytes=_mean(result.peak_memory_bytes for result in done),
        learning_rate=first.learning_rate,
        base=first.base,
        options=first.options,
        lower_is_better=first.lower_is_better,
        adjusted=_texts(first.findings.get("adjusted")),
        budget=first.budget,
        tuning=first.tuning,
        fingerprints=first.fingerprints,
        environment={"packages": first.environment.get("packages"), "device": first.environment.get("device")}
        | hardware(first),
        history=first.history,
    )
    return Evidence(row, results, [folder for folder, _ in group], scores)


def _tune_seconds(result: Result) -> float | None:
    return sum(trial["seconds"] for trial in result.tuning["trials"]) if result.tuning else None


def _texts(found: Any) -> dict[str, str]:
    """What a method, whoever wrote it, says it adjusted."""
    return {str(option): str(change) for option, change in found.items()} if isinstance(found, dict) else {}


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None
