"""Exact match: an answer is right if it is the reference."""

from __future__ import annotations

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric
from adapterzoo.metrics.texts import same_text


def exact_match(reference: str, answer: str) -> bool:
    """Share of answers that are the reference (0 to 1); white space and Unicode form are ignored, nothing else is."""
    return same_text(reference, answer)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    style = ColumnStyle("match", ".3f", "match: share of test answers exactly right", (0.0, 1.0), drop=0)
    return [Metric("exact_match", exact_match, styles={"exact_match": style})]
