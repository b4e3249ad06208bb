"""Exact match: the answer is the reference."""

from __future__ import annotations

import unicodedata

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import Metric


def normalised(text: str) -> str:
    """NFC, no white space at the ends, one space for every run of it elsewhere."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact_match(reference: str, answer: str) -> bool:
    """Share of answers that are the reference (0 to 1); white space and Unicode form do not count, all else does."""
    return normalised(answer) == normalised(reference)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """What this module brings."""
    return [Metric("exact_match", exact_match)]
