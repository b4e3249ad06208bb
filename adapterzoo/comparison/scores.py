"""Read the scores of a cell's test examples, from which intervals and differences are computed.

Some metrics are not a mean over the examples (a loss per token, corpus BLEU, macro-F1). For these, each example gets a
number that says how much it changes the metric: the mean of the numbers is the metric, and their spread shows how
uncertain it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapterzoo.digests import records_digest
from adapterzoo.metrics.measured import BY_COLUMN, Records, numbers
from adapterzoo.metrics.registry import metrics as known_metrics
from adapterzoo.results.intact import read_lines
from adapterzoo.results.result import FORGETTING, Result
from adapterzoo.results.store import GENERAL, PREDICTIONS

MAX_GROUPS = 50  # a metric of the whole split is computed again without each of these groups of examples


@dataclass(frozen=True)
class ExampleScores:
    """The scores of one metric in one cell, one for each example or group of examples."""

    values: NDArray[np.float64]
    examples: int
    """number of examples that the values are computed from"""
    right_or_wrong: bool = False
    """whether each value is 0 or 1"""


@dataclass(frozen=True)
class CellScores:
    """The scores of one cell's examples."""

    by_metric: dict[str, ExampleScores]
    missing: dict[str, str]
    """metric -> why its scores are not known: a statement about the file, such as ``it is damaged``"""


class NoScoresError(Exception):
    """The reason why a file does not show a metric's scores."""


def cell_scores(folder: Path, result: Result) -> CellScores:
    """Return the scores of a cell's examples, without metrics whose scores do not agree with the result.

    Metrics that are known only for all examples together are in neither of the two mappings.

    Args:
        folder: folder of the cell.
        result: result of the cell.
    """
    by_metric, missing = dict[str, ExampleScores](), dict[str, str]()
    for name, value in result.metrics.items():
        if name in result.joint_metrics:
            continue
        file = GENERAL if name == FORGETTING else PREDICTIONS
        try:
            scores = example_scores(name, _records(folder / file, result.record_digests.get(file)))
            mean = float(scores.values.mean())
            if not math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-9):
                raise NoScoresError(f"its examples give {mean:.6g}, but the result has {value:.6g}")
            by_metric[name] = scores
        except NoScoresError as error:
            missing[name] = str(error)
    return CellScores(by_metric, missing)


def _records(path: Path, digest: str | None) -> list[dict[str, Any]]:
    """Return the records of a file, one for each example.

    Args:
        path: path of the file.
        digest: digest of the records that the run wrote; None if it is not known.

    Raises:
        NoScoresError: an example is missing, or the records are not what the run wrote.
    """
    records = read_lines(path)
    if not records:
        raise NoScoresError("it is damaged" if path.is_file() else "it is missing")
    if digest is not None and records_digest(records) != digest:
        raise NoScoresError("it is not what the run wrote")
    if [record["index"] for record in records] != list(range(len(records))):
        raise NoScoresError("examples are missing")
    return records


def example_scores(name: str, records: Records) -> ExampleScores:
    """Return the score of each example by one metric.

    Raises:
        NoScoresError: the records do not show it.
    """
    try:
        if name in BY_COLUMN:
            values = BY_COLUMN[name].of_examples(records)
        elif total := next((m.total for m in known_metrics().values() if name in m.columns), None):
            values = _jackknife(name, total, records)
        else:
            right_or_wrong = all(isinstance(record[name], bool) for record in records)
            return ExampleScores(numbers(records, name), len(records), right_or_wrong)
        return ExampleScores(values, len(records))
    except KeyError as error:  # the file was written by another version, or by hand
        raise NoScoresError(f"it has no {error}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise NoScoresError(f"its numbers cannot be used: {error}") from None
    except (Exception, SystemExit) as error:  # a third-party metric may raise anything
        raise NoScoresError(f"the metric raised {type(error).__name__}: {error}") from None


def _jackknife(
    name: str, total: Callable[[Sequence[str], Sequence[str]], Any], records: Records
) -> NDArray[np.float64]:
    """Return how much each group of examples changes a metric of the whole split (the values of the jackknife)."""
    references = [str(record["reference"]).strip() for record in records]
    answers = [str(record["prediction"] or "") for record in records]

    def score(kept: Sequence[int]) -> float:
        score = total([references[i] for i in kept], [answers[i] for i in kept])
        return float(score[name] if isinstance(score, Mapping) else score)

    groups = min(MAX_GROUPS, len(records))
    whole = score(range(len(records)))
    if groups == 1:
        return np.array([whole])
    # Assign groups at random, because neighbouring rows of a file may be alike; use one seed for all rows.
    group_of = np.random.default_rng(0).permutation(len(records)) % groups
    without = np.array([score(np.flatnonzero(group_of != group).tolist()) for group in range(groups)])
    values: NDArray[np.float64] = whole - (groups - 1) * (without - without.mean())
    return values
