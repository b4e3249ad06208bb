"""The evidence for a row of a comparison: its cells, and the score of each test example."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from adapterzoo.comparison.comparable import hardware
from adapterzoo.comparison.scores import ExampleScores, cell_scores
from adapterzoo.comparison.statistics import Seeds
from adapterzoo.results.intact import changed_files
from adapterzoo.results.result import FORGETTING, Result, Trial, Tuning
from adapterzoo.results.row import IS_MEAN, Row
from adapterzoo.results.serving import read_serving
from adapterzoo.results.store import GENERAL, PREDICTIONS


class StoredResult(NamedTuple):
    """The result of a cell, and where it is on disk."""

    run: Path
    """output folder of the run"""
    folder: Path
    """folder of the cell, inside the output folder"""
    result: Result


@dataclass
class Evidence:
    """A row, its cells, and the scores that its intervals and differences are computed from."""

    row: Row
    results: list[Result]
    folders: list[Path]
    """folders of the cells, in the order of ``results``"""
    scores: dict[str, dict[int | None, ExampleScores]]
    """metric -> seed -> score of each test example"""

    def seeds(self, metric: str) -> Seeds:
        """Return a metric's scores by seed; empty unless there are scores for every seed that the mean includes."""
        by_seed = self.scores.get(metric, {})
        if len(by_seed) < len(self.row.seeds):
            return {}
        return {seed: scores.values for seed, scores in by_seed.items()}

    def examples(self, metric: str) -> int | None:
        """Return how many test examples a metric's scores cover; None if there are no scores."""
        return next((scores.examples for scores in self.scores.get(metric, {}).values()), None)

    def right_or_wrong(self, metric: str) -> bool:
        """Tell whether this metric scores every example either 0 or 1."""
        return all(scores.right_or_wrong for scores in self.scores.get(metric, {}).values())


def collect_evidence(label: str, group: Sequence[StoredResult]) -> Evidence:
    """Return one row and its evidence.

    Args:
        label: the label to show.
        group: the row's cells, at least one.
    """
    results = [cell.result for cell in group]
    scores, unproven = _scores(group)
    row = _row(label, results, unproven)
    row.damaged = [f"{folder.name}/{file}" for _, folder, result in group for file in changed_files(folder, result)]
    servings = (read_serving(folder, result) for _, folder, result in group if result.method and result.ok)
    row.serving = next((asdict(serving) for serving in servings if serving is not None), None)
    return Evidence(row, results, [cell.folder for cell in group], scores)


def _scores(group: Sequence[StoredResult]) -> tuple[dict[str, dict[int | None, ExampleScores]], list[str]]:
    """Return the scores of the test examples by metric and seed, and a sentence for each cell that lacks scores."""
    scores: dict[str, dict[int | None, ExampleScores]] = {}
    unproven = []
    for _, folder, result in group:
        if not (result.ok and result.metrics):
            continue
        of_cell = cell_scores(folder, result)
        if of_cell.missing:
            files = sorted({GENERAL if name == FORGETTING else PREDICTIONS for name in of_cell.missing}, reverse=True)
            verb = "does" if len(files) == 1 else "do"
            reasons = "; ".join(dict.fromkeys(of_cell.missing.values()))
            what = f"{' and '.join(files)} {verb} not show its {', '.join(of_cell.missing)} ({reasons})"
            unproven.append(f"{folder.name}/{what}")
        for name, example_scores in of_cell.by_metric.items():
            scores.setdefault(name, {})[result.seed if result.method else None] = example_scores
    return scores, unproven


def _row(label: str, results: Sequence[Result], unproven: list[str]) -> Row:
    """Return the row of some results: means over the cells that finished; if none did, the settings of a failed one."""
    done = [result for result in results if result.ok and result.metrics]
    failed = [result for result in results if not result.ok]
    shown = done or failed or results
    first = shown[0]
    reasons = [f"seed {result.seed}: {result.error}" if len(results) > 1 else str(result.error) for result in failed]
    tune_seconds = _tune_seconds([result.tuning for result in results if result.tuning])
    seconds = sum((result.train_seconds or 0.0) + (result.evaluate_seconds or 0.0) for result in results)
    in_all = [name for name in first.metrics if all(name in result.metrics for result in done)] if done else []
    computed: dict[str, Any] = {
        "label": label,
        "status": "failed" if failed else "ok",
        "error": "; ".join(reasons) or None,
        "seeds": [result.seed for result in shown],
        "metrics": {name: fmean(result.metrics[name] for result in done) for name in in_all},
        "intervals": {},
        "unproven": unproven,
        "damaged": [],
        "examples": None,
        "tune_seconds": tune_seconds,
        "seconds": _mean_seconds([result.seconds for result in done]),
        "total_seconds": seconds + (tune_seconds or 0.0),
        "adjusted": _texts(first.findings.get("adjusted")),
        "broken_rules": _joined(result.broken_rules for result in done),
        "declared_departures": _joined(result.declared_departures for result in done),
        "environment": {name: first.environment.get(name) for name in ("packages", "device")} | hardware(first),
        "history": [{name: value for name, value in step.items() if isfinite(value)} for step in first.history],
    }
    return Row(**(_carried_over(first, done) | computed))


def _carried_over(first: Result, done: Sequence[Result]) -> dict[str, Any]:
    """Return every field that a row has in common with a result: the mean over seeds, or the first result's value."""
    in_results = {field.name for field in fields(first)}
    return {
        field.name: _mean(getattr(result, field.name) for result in done)
        if field.metadata.get(IS_MEAN)
        else getattr(first, field.name)
        for field in fields(Row)
        if field.name in in_results
    }


def _tune_seconds(tunings: Sequence[Tuning]) -> float | None:
    """Return the seconds of all trials, and count trials that several seeds share only once."""
    different: list[list[Trial]] = []
    for tuning in tunings:
        if tuning["trials"] not in different:
            different.append(tuning["trials"])
    return sum(trial["seconds"] for trials in different for trial in trials) if different else None


def _mean_seconds(seconds_of_cells: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean seconds of each activity over the cells, with 0 for a cell that did not do it."""
    names = dict.fromkeys(name for seconds in seconds_of_cells for name in seconds)
    return {name: fmean(seconds.get(name, 0.0) for seconds in seconds_of_cells) for name in names}


def _texts(adjusted: Any) -> dict[str, str]:
    """Return a method's adjusted options as texts; empty if a plugin returned something that is not a dictionary."""
    return {str(option): str(change) for option, change in adjusted.items()} if isinstance(adjusted, dict) else {}


def _joined(departures: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the departures of all seeds; of several from one rule, the first."""
    joined: dict[str, str] = {}
    for of_seed in departures:
        joined = {**of_seed, **joined}
    return joined


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None
