"""What every test example of a cell scored, read back from disk: what intervals and tests are made of.

A metric that is no mean over the examples (a loss by token, corpus BLEU, macro-F1) is made one: each example gets the
number by which it moves the whole, so that their mean is the metric, and their spread its uncertainty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapterzoo.digests import records_digest
from adapterzoo.metrics.registry import metrics as known_metrics
from adapterzoo.results.result import FORGETTING, Result
from adapterzoo.results.store import GENERAL, PREDICTIONS

# Parts of the test split that a metric of the whole is computed without, one after the other.
GROUPS = 50
# Beyond which there are no values; a linearised metric's interval does not know.
BOUNDS = {
    "test_loss": (0.0, math.inf),
    "perplexity": (1.0, math.inf),
    **dict.fromkeys(("token_accuracy", "rouge1", "rouge2", "rougeL", "macro_f1"), (0.0, 1.0)),
    **dict.fromkeys(("bleu", "chrf"), (0.0, 100.0)),
}
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Column:
    """The scores of one metric in one cell, an example each, or a group of examples."""

    values: NDArray[np.float64]
    examples: int
    right_or_wrong: bool = False


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines by their ``index``; none where it is damaged or not there.

    Rows are compared example by example, whatever the order of the lines in either file.
    """
    try:
        with path.open(encoding="utf-8") as file:
            records = sorted((json.loads(line) for line in file), key=lambda record: int(record["index"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []
    return records if len({record["index"] for record in records}) == len(records) else []


def _of_all_examples(path: Path, digest: str | None) -> list[dict[str, Any]]:
    """Return the records of a file; none where an example is missing, or they are not what the run wrote.

    Args:
        digest: of what the run wrote; None where it is not known.
    """
    records = read_lines(path)
    if digest is not None and records_digest(records) != digest:
        return []
    return records if [record["index"] for record in records] == list(range(len(records))) else []


def cell_scores(folder: Path, result: Result) -> dict[str, Column]:
    """By metric, for those whose examples are there and agree with what the result says of them.

    Args:
        folder: of the cell.
    """
    files = (PREDICTIONS, GENERAL) if FORGETTING in result.metrics else (PREDICTIONS,)
    lines = {name: _of_all_examples(folder / name, result.record_digests.get(name)) for name in files}
    found = {}
    for name, value in result.metrics.items():
        column = _column(name, lines[GENERAL if name == FORGETTING else PREDICTIONS])
        if column is not None and math.isclose(column.values.mean(), value, rel_tol=1e-6, abs_tol=1e-9):
            found[name] = column
    return found


def _column(name: str, lines: Lines) -> Column | None:
    if not lines:
        return None
    try:
        if name in ("test_loss", "perplexity"):
            loss = _ratio(_numbers(lines, "loss"), _numbers(lines, "tokens"))
            # To first order: a loss that is a little higher is a perplexity that is a little higher by its own size.
            values = loss if name == "test_loss" else np.exp(loss.mean()) * (1 + loss - loss.mean())
        elif name == "token_accuracy":
            values = _ratio(_numbers(lines, "right_tokens"), _numbers(lines, "tokens"))
        elif name == FORGETTING:
            change = _numbers(lines, "loss") - _numbers(lines, "base_loss")
            values = _ratio(change, _numbers(lines, "tokens"))
        elif total := next((m.total for m in known_metrics().values() if name in m.columns), None):
            values = _left_out(name, total, lines)
        else:
            values = _numbers(lines, name)
            return Column(values, len(lines), all(isinstance(line[name], bool) for line in lines))
        return Column(values, len(lines))
    except (KeyError, TypeError, ValueError, ArithmeticError):  # of another version, or written by hand
        return None
    except (Exception, SystemExit):  # a stranger's metric may raise anything
        return None


def _numbers(lines: Lines, key: str) -> NDArray[np.float64]:
    values = np.array([float(line[key]) for line in lines])
    if not np.isfinite(values).all():
        raise ValueError(f"{key} is not finite")
    return values


def _ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each example moves sum(parts) / sum(wholes), to first order."""
    whole = parts.sum() / wholes.sum()
    moved: NDArray[np.float64] = whole + (parts - whole * wholes) / wholes.mean()
    return moved


def _left_out(name: str, total: Callable[[Sequence[str], Sequence[str]], Any], lines: Lines) -> NDArray[np.float64]:
    """By how much each group of examples moves a metric of the whole split (the jackknife)."""
    references = [str(line["reference"]).strip() for line in lines]
    answers = [str(line["prediction"] or "") for line in lines]

    def of(kept: Sequence[int]) -> float:
        given = total([references[i] for i in kept], [answers[i] for i in kept])
        return float(given[name] if isinstance(given, Mapping) else given)

    groups = min(GROUPS, len(lines))
    whole = of(range(len(lines)))
    if groups == 1:
        return np.array([whole])
    # By chance, the same for every row: neighbours in a file may be alike.
    member = np.random.default_rng(0).permutation(len(lines)) % groups
    without = np.array([of(np.flatnonzero(member != group).tolist()) for group in range(groups)])
    moved: NDArray[np.float64] = whole - (groups - 1) * (without - without.mean())
    return moved
