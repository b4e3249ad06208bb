"""What is behind a row of a comparison: its cells, and what each test example scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from adapterzoo.comparison import Cell
from adapterzoo.comparison.comparable import hardware
from adapterzoo.comparison.scores import Column, cell_scores
from adapterzoo.comparison.statistics import Seeds
from adapterzoo.results.result import FORGETTING, Result, Tuning
from adapterzoo.results.row import Row
from adapterzoo.results.store import GENERAL, PREDICTIONS, changed_files

# Fields of a row that all its seeds share, and those that are means over them.
SHARED = (
    "method", "quantization", "plugin", "options", "learning_rate", "budget", "tuning", "trainable_params",
    "total_params", "adapter_bytes", "lower_is_better", "fingerprints",
)  # fmt: skip
MEANS = ("train_seconds", "evaluate_seconds", "answer_seconds", "tokens_per_second", "peak_memory_bytes")


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

    def examples(self, metric: str) -> int | None:
        """How many test examples these scores are of."""
        return next((column.examples for column in self.scores.get(metric, {}).values()), None)

    def right_or_wrong(self, metric: str) -> bool:
        """Whether an example of this metric is right or wrong, and nothing between."""
        return all(column.right_or_wrong for column in self.scores.get(metric, {}).values())


def make(label: str, group: Sequence[Cell]) -> Evidence:
    """The row of one label.

    Args:
        label: as it is shown.
        group: its cells, at least one.
    """
    results = [cell.result for cell in group]
    scores, unproven = _scores(group)
    row = _row(label, results, unproven)
    row.damaged = [f"{folder.name}/{file}" for _, folder, result in group for file in changed_files(folder, result)]
    return Evidence(row, results, [cell.folder for cell in group], scores)


def _scores(group: Sequence[Cell]) -> tuple[dict[str, dict[int | None, Column]], list[str]]:
    """Return the scores of each test example by metric and seed, and the metrics that the files do not show."""
    scores: dict[str, dict[int | None, Column]] = {}
    unproven = []
    for _, folder, result in group:
        if not (result.ok and result.metrics):
            continue
        found = cell_scores(folder, result)
        if lacking := [name for name in result.metrics if name not in found]:
            files = sorted({GENERAL if name == FORGETTING else PREDICTIONS for name in lacking}, reverse=True)
            what = f"{' and '.join(files)} {'does' if len(files) == 1 else 'do'} not show its {', '.join(lacking)}"
            unproven.append(f"{folder.name}/{what}")
        for name, column in found.items():
            scores.setdefault(name, {})[result.seed if result.method else None] = column
    return scores, unproven


def _row(label: str, results: Sequence[Result], unproven: list[str]) -> Row:
    """The means of what finished; of failures alone, what they were to be."""
    done = [result for result in results if result.ok and result.metrics]
    failed = [result for result in results if not result.ok]
    shown = done or failed or results
    first = shown[0]
    reasons = [f"seed {one.seed}: {one.error}" if len(results) > 1 else str(one.error) for one in failed]
    tune_seconds = _tune_seconds([one.tuning for one in results if one.tuning])
    seconds = sum((one.train_seconds or 0.0) + (one.evaluate_seconds or 0.0) for one in results)
    everywhere = [name for name in first.metrics if all(name in result.metrics for result in done)] if done else []
    copied: dict[str, Any] = {name: getattr(first, name) for name in SHARED}
    copied |= {name: _mean(getattr(result, name) for result in done) for name in MEANS}
    return Row(
        label=label,
        status="failed" if failed else "ok",
        error="; ".join(reasons) or None,
        seeds=[result.seed for result in shown],
        metrics={name: fmean(result.metrics[name] for result in done) for name in everywhere},
        intervals={},
        unproven=unproven,
        damaged=[],
        examples=None,
        tune_seconds=tune_seconds,
        seconds=_mean_seconds([result.seconds for result in done]),
        total_seconds=seconds + (tune_seconds or 0.0),
        adjusted=_texts(first.findings.get("adjusted")),
        environment={name: first.environment.get(name) for name in ("packages", "device")} | hardware(first),
        history=[{name: value for name, value in one.items() if isfinite(value)} for one in first.history],
        **copied,
    )


def _tune_seconds(tunings: Sequence[Tuning]) -> float | None:
    """Of all trials; seeds share those of their folder."""
    trials = [
        trials for i, one in enumerate(tunings) if (trials := one["trials"]) not in [t["trials"] for t in tunings[:i]]
    ]
    return sum(trial["seconds"] for one in trials for trial in one) if trials else None


def _mean_seconds(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for seconds in found for name in seconds)
    return {name: fmean(seconds.get(name, 0.0) for seconds in found) for name in names}


def _texts(found: Any) -> dict[str, str]:
    """What a method, whoever wrote it, says it adjusted."""
    return {str(option): str(change) for option, change in found.items()} if isinstance(found, dict) else {}


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None
