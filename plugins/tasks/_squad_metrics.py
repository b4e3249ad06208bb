"""Refuse SQuAD's metrics for answers of several lines, of which they would take each for a right answer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from adapterzoo import Problem
from adapterzoo.metrics.built_in.squad import METRICS, SEPARATOR
from adapterzoo.tasks.contract import Rows


def line_problems(rows: Rows, metrics: Sequence[str], key: str = "evaluate.metrics") -> list[Problem]:
    """Return a problem for each of SQuAD's metrics, if a row that may be measured has an answer of several lines.

    With such an answer, one of its lines would be as good as all of it.

    Args:
        rows: the rows of each split, of a task whose rows have one right answer.
        metrics: names of metrics.
        key: key of the recipe that names the metrics.
    """
    named = [name for name in metrics if name in METRICS]
    measured = chain(rows.test, rows.validation) if named else ()
    first = next((row for row in measured if SEPARATOR in row.completion.strip()), None)
    if first is None:
        return []
    what = f"takes each line of an answer for a right answer of its own, and that of {first.place} has several lines."
    return [Problem(key, f"'{name}' {what}", "Choose from: exact_match, rouge, bleu, chrf.") for name in named]
