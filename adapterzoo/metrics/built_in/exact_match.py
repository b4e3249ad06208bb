"""Exact match: the answer is the reference."""

from __future__ import annotations

import unicodedata

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric


def normalised(text: str) -> str:
    """NFC, no white space at the ends, one space for every run of it elsewhere."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact_match(reference: str, answer: str) -> bool:
    """Share of answers that are the reference (0 to 1); white space and Unicode form do not count, all else does."""
    return normalised(answer) == normalised(reference)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return what this module brings."""
    style = ColumnStyle("match", ".3f", "match: share of test answers exactly right", (0.0, 1.0), drop=0)
    return [Metric("exact_match", exact_match, styles={"exact_match": style})]
