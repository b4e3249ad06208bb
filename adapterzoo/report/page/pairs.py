"""The differences of all pairs of rows, so that the page can show them from any row, with intervals and p-values.

The numbers are those of the table; the script in the page only looks them up.
"""

from __future__ import annotations

from typing import Any

from adapterzoo.comparison.comparison import Comparison
from adapterzoo.comparison.ranking import PairedRows
from adapterzoo.comparison.statistics import LEVEL
from adapterzoo.report.columns import difference_text, interval_text, metric_column, p_value_text
from adapterzoo.terminal import clean

# Pairs of rows in the page, all metrics together: each takes about 80 bytes. Beyond it, metrics are left out.
MAX_PAIRS = 20_000
TIED, BETTER, WORSE, UNKNOWN = "tied", "better", "worse", "not known"
SIGNS = {TIED: "=", BETTER: "▲", WORSE: "▼", UNKNOWN: ""}


def differences(comparison: Comparison) -> list[dict[str, Any]]:
    """Return for each block metric -> its differences, those of the metric that ranks the rows first."""
    room = MAX_PAIRS
    by_block = []
    for block in comparison.blocks:
        by_metric: dict[str, Any] = {}
        ranked_by = block.rows[0].rank_metric
        for name in sorted(comparison.metrics, key=lambda name: name != ranked_by):
            paired = block.pairs.get(name)
            pairs = len(paired.labels) * (len(paired.labels) - 1) // 2 if paired else 0
            if paired and 0 < pairs <= room:
                by_metric[name] = _texts(paired)
                room -= pairs
        by_block.append(by_metric)
    return by_block


def _texts(paired: PairedRows) -> dict[str, Any]:
    """Return the differences of all pairs as texts: ``cells[i][j]`` is the difference of row ``i`` from row ``j``."""
    p_values, difference = paired.corrected(), difference_text(paired.metric)
    column = metric_column(paired.metric)

    def cell(first: str, second: str) -> list[str] | None:
        if first == second:
            return None
        pair, p = paired.differences[first, second], p_values[first, second]
        ends = interval_text(pair.interval) if pair.interval else "-"
        return [difference(pair.value), ends, p_value_text(p), outcome(paired, first, second, p)]

    cells = [[cell(first, second) for second in paired.labels] for first in paired.labels]
    labels = [clean(label) for label in paired.labels]
    return {"title": column.title, "best": clean(paired.best), "labels": labels, "cells": cells}


def outcome(paired: PairedRows, first: str, second: str, p: float) -> str:
    """Return in a word how the first row compares with the second."""
    pair = paired.differences[first, second]
    if pair.p is None:
        return UNKNOWN
    if p >= 1 - LEVEL or paired.contradicts(first, second):
        return TIED
    return BETTER if paired.pick_better(pair.value, 0.0) == pair.value else WORSE
