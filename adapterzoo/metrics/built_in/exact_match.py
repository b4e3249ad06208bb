"""Exact match: an answer is right if it is the reference."""

from __future__ import annotations

import unicodedata

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric


def normalised(text: str) -> str:
    """Return a text in NFC, without white space at its ends, and with one space for each run of it elsewhere."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact_match(reference: str, answer: str) -> bool:
    """Share of answers that are the reference (0 to 1); white space and Unicode form are ignored, nothing else is."""
    return normalised(answer) == normalised(reference)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    style = ColumnStyle("match", ".3f", "match: share of test answers exactly right", (0.0, 1.0), drop=0)
    return [Metric("exact_match", exact_match, styles={"exact_match": style})]
