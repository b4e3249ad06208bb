"""chrF (Popović, 2015, https://aclanthology.org/W15-3049), by ``sacrebleu``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric

if TYPE_CHECKING:
    from sacrebleu import CHRF


@cache
def _chrf() -> CHRF:
    from sacrebleu import CHRF

    return CHRF()


def chrf(reference: str, answer: str) -> float:
    """F2 of sequences of 1 to 6 characters, whole split (0 to 100); case matters, white space is ignored."""
    return float(_chrf().sentence_score(answer, [reference]).score)


def corpus_chrf(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return the chrF of the whole test split, which is not the mean over its sentences."""
    return float(_chrf().corpus_score(answers, [references]).score)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    return [Metric("chrf", chrf, total=corpus_chrf, styles={"chrf": ColumnStyle("chrF", ".1f", bounds=(0.0, 100.0))})]
