"""SQuAD's metrics: an answer is compared with each of several references, and the best comparison counts."""

from __future__ import annotations

import re
import string
from collections import Counter

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric

METRICS = ("squad_em", "squad_f1")
SEPARATOR = "\n"
"""stands between several references in one text; an empty text means that the right answer is none"""
ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact(reference: str, answer: str) -> bool:
    """Share of answers that are one of the references (0 to 1), without case, punctuation and English articles."""
    given = _words(answer)
    return any(given == wanted for wanted in _references(reference))


def f1(reference: str, answer: str) -> float:
    """Return the F1 of the words that an answer shares with the reference that it is most like."""
    given = _words(answer)
    return max(_f1(wanted, given) for wanted in _references(reference))


def _f1(wanted: list[str], given: list[str]) -> float:
    if not wanted or not given:
        return float(wanted == given)
    shared = sum((Counter(wanted) & Counter(given)).values())
    return 2 * shared / (len(wanted) + len(given))


def _references(text: str) -> list[list[str]]:
    """Return the words of each reference; one without words if the right answer is none."""
    return [words for part in text.split(SEPARATOR) if (words := _words(part))] or [[]]


def _words(text: str) -> list[str]:
    """Return the words of a text as SQuAD's own script normalises it."""
    return ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    exact_style = ColumnStyle("EM", ".3f", "EM: share of answers that are one of the references, as in SQuAD", (0, 1))
    summary = "Mean F1 of the words shared with the best reference (0 to 1); normalised like squad_em"
    f1_style = ColumnStyle("word F1", ".3f", "word F1: words shared with the best reference, as in SQuAD", (0, 1))
    em_name, f1_name = METRICS
    return [
        Metric(em_name, exact, styles={em_name: exact_style}),
        Metric(f1_name, f1, summary, styles={f1_name: f1_style}),
    ]
