"""Read the scores of a benchmark out of what lm-eval returns: one number for each metric, and one for each example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

NO_FILTER = "none"  # lm-eval's name for answers that no filter has changed


@dataclass(frozen=True)
class BenchmarkScores:
    """The scores of one model in one benchmark."""

    metrics: dict[str, float]
    """column -> lm-eval's number"""
    records: list[dict[str, Any]]
    """what is known of each example, and its score by each metric that is a mean over the examples"""
    joint: list[str]
    """columns of metrics that are known only for all examples together, such as BLEU"""
    lower_is_better: list[str]
    """columns of metrics for which a lower value is better"""


def benchmark_scores(name: str, output: Mapping[str, Any]) -> BenchmarkScores:
    """Return the scores of a benchmark.

    Args:
        name: name of the benchmark, with which the names of its columns begin.
        output: what ``lm_eval.evaluate`` returned for it.
    """
    samples = [(task, sample) for task, of_task in output["samples"].items() for sample in of_task]
    # In the order of the tasks and their rows, so that the same example has the same index for every model.
    examples = {(task, int(sample["doc_id"])): sample for task, sample in sorted(samples, key=_order(output))}
    records = [
        {"index": index, "task": task, **_example(sample)} for index, ((task, _), sample) in enumerate(examples.items())
    ]
    metrics, joint, lower = dict[str, float](), list[str](), list[str]()
    for metric, answers in _keys(output):
        column = " ".join([name, metric, *([] if answers == NO_FILTER else [answers])])
        by_example = {
            (task, int(sample["doc_id"])): _score(sample.get(metric))
            for task, sample in samples
            if sample["filter"] == answers
        }
        scores = [by_example.get(example) for example in examples]
        number = _number(name, output, f"{metric},{answers}", scores)
        if number is None:
            continue
        metrics[column] = number
        if any(better.get(metric) is False for better in output["higher_is_better"].values()):
            lower.append(column)
        if not _is_mean(number, scores):
            joint.append(column)
            continue
        right_or_wrong = set(scores) <= {0.0, 1.0}
        for record, score in zip(records, scores, strict=True):
            record[column] = bool(score) if right_or_wrong else score
    # Rows are ranked by the first metric, so one with scores of the examples comes first.
    metrics = dict(sorted(metrics.items(), key=lambda item: item[0] in joint))
    return BenchmarkScores(metrics, records, joint, lower)


def _order(output: Mapping[str, Any]) -> Callable[[tuple[str, Mapping[str, Any]]], tuple[int, int]]:
    """Return a function that orders examples by their task and row."""
    tasks = list(output["samples"])
    return lambda example: (tasks.index(example[0]), int(example[1]["doc_id"]))


def _keys(output: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return metric and filter of all numbers that every task of the benchmark has, in the order of the first task."""
    tasks = list(output["samples"])
    found = [
        [(metric, answers) for metric, _, answers in (key.partition(",") for key in output["results"][task]) if answers]
        for task in tasks
    ]
    return [key for key in found[0] if not key[0].endswith("_stderr") and all(key in of_task for of_task in found[1:])]


def _number(name: str, output: Mapping[str, Any], key: str, scores: Sequence[float | None]) -> float | None:
    """Return lm-eval's number of a metric; for tasks that it does not join, the mean over all examples."""
    tasks = list(output["samples"])
    own = output["results"].get(tasks[0] if len(tasks) == 1 else name, {})
    if not any("," in known for known in own):
        known = [score for score in scores if score is not None]
        return fmean(known) if known and len(known) == len(scores) else None
    number = own.get(key)
    return None if number is None or isinstance(number, str) else float(number)  # it is "N/A" if there is no number


def _is_mean(number: float, values: Sequence[float | None]) -> bool:
    """Tell whether a number is the mean of the values of all examples."""
    known = [value for value in values if value is not None]
    return len(known) == len(values) > 0 and math.isclose(fmean(known), number, rel_tol=1e-9, abs_tol=1e-12)


def _example(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked and what the model answered: the text that it wrote, or the likeliest of the choices."""
    arguments, answers = sample["arguments"], sample["resps"]
    first = answers[0][0] if answers and answers[0] else None
    if isinstance(first, str):
        answer: str | None = first
    elif len(arguments) > 1 and all(isinstance(choice[0], (tuple, list)) for choice in answers):
        likeliest = max(range(len(arguments)), key=lambda number: answers[number][0][0])
        answer = str(arguments[likeliest][1])
    else:
        answer = None
    return {
        "doc_id": int(sample["doc_id"]),
        "doc_hash": sample["doc_hash"],
        "prompt": str(arguments[0][0]),
        "reference": str(sample["target"]),
        "prediction": answer,
    }


def _score(value: Any) -> float | None:
    """Return a finite number; None for other values, from which lm-eval computes one number for all examples."""
    if isinstance(value, (str, bytes, list, tuple, dict)) or value is None or getattr(value, "ndim", 0) != 0:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
