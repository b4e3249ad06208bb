"""Metrics of retrieval: a task measures them itself, because they compare the embeddings of all test texts."""

from __future__ import annotations

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    return [
        Metric(
            "retrieval_hit", None, "Share of texts for which the nearest text is a right one (0 to 1); a tie is wrong",
            right_or_wrong=True,
            styles={"retrieval_hit": ColumnStyle(
                "hit", ".3f", "hit: share of texts for which the nearest text is a right one", (0.0, 1.0)
            )},
        ),
        Metric(
            "ndcg", None, "Mean nDCG of the ten nearest texts (0 to 1); of equally near texts, wrong ones come first",
            styles={"ndcg": ColumnStyle("nDCG", ".3f", "nDCG: of the ten nearest texts", (0.0, 1.0))},
        ),
    ]  # fmt: skip
