"""The comparison itself: blocks of rows; the rows of one block can be compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapterzoo.comparison.order import better, metric_columns
from adapterzoo.results.result import Result
from adapterzoo.results.row import Row

if TYPE_CHECKING:
    from pandas import DataFrame

    from adapterzoo.comparison.evidence import Evidence
    from adapterzoo.comparison.ranking import PairedRows

# Version of what ``compare --format json`` prints; docs/comparison.schema.json describes it.
SCHEMA = 3
# Fields of a row that are not columns of a table or of a data frame, mostly because they hold more than one value.
NO_COLUMNS = frozenset({
    "metrics", "intervals", "options", "adjusted", "lower_is_better", "fingerprints", "environment", "history", "ties",
    "tuning", "difference_interval", "block", "rank_metric", "unproven", "damaged", "seconds",
    "broken_rules", "declared_departures",
})  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """The facts that are true for all rows of a block, as in ``compare --format json``."""

    __pydantic_config__ = {"use_attribute_docstrings": True}  # for its schema  # noqa: RUF012

    differs: list[str]
    """what differs from the first block, one line for each reason why the rows cannot be ranked together"""
    costs_differ: list[str]
    """what differs between the machines of the block's rows, so that their times and memory cannot be compared"""
    fingerprints: dict[str, str | None]
    """hashes of the recipe, the data and the base model's weights, from the block's first row"""
    environment: dict[str, Any]
    """package versions and hardware of the block's first row"""


@dataclass(frozen=True)
class Block(Facts):
    """Rows that can be compared with each other."""

    evidence: list[Evidence] = field(repr=False)
    """the evidence of each row, in the order of the rows"""
    pairs: Mapping[str, PairedRows] = field(default_factory=dict, repr=False)
    """metric -> the differences of all pairs of rows, for each metric in which rows are ranked"""

    @property
    def rows(self) -> list[Row]:
        """The rows, in order."""
        return [evidence.row for evidence in self.evidence]


class Comparison:
    """The rows of all blocks, in order. ``frame()`` returns them as a pandas DataFrame."""

    def __init__(
        self,
        blocks: Sequence[Block],
        against: str | None = None,
        unfinished: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
        times: Mapping[str, Mapping[str, float]] | None = None,
        damaged: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.blocks = list(blocks)
        self.against = against
        """label of the row that all others are compared with; None if that is the best row"""
        self.unfinished = dict(unfinished or {})
        """folder -> label -> seeds of the folder's last run that have no result"""
        self.times = dict(times or {})
        """folder -> activity, such as training -> its seconds in the folder's last run, all processes together"""
        self.damaged = dict(damaged or {})
        """folder -> a sentence for each result in it that is damaged and in no row"""

    @property
    def rows(self) -> list[Row]:
        """The rows of all blocks."""
        return [row for block in self.blocks for row in block.rows]

    @property
    def results(self) -> list[Result]:
        """The results of all cells from which the rows are made."""
        return [result for block in self.blocks for evidence in block.evidence for result in evidence.results]

    def parts(self) -> list[Comparison]:
        """Return comparisons of the blocks that are ranked by the same metric; other tasks may have other metrics."""
        by_metric: dict[str | None, list[Block]] = {}
        for block in self.blocks:
            by_metric.setdefault(block.rows[0].rank_metric, []).append(block)
        return [Comparison(blocks, self.against) for blocks in by_metric.values()]

    @property
    def metrics(self) -> list[str]:
        """The columns of all metrics, metrics of answers first. By default, rows are ordered by the first one."""
        return metric_columns(self.rows)

    def better(self, column: str) -> Callable[..., Any] | None:
        """Return the function that picks the better value of a column, ``max`` or ``min``; None if there is none."""
        return better(self.rows, column)

    def records(self) -> dict[str, Any]:
        """Return what ``compare --format json`` prints."""
        return {
            "schema": SCHEMA,
            "rank_metric": next((row.rank_metric for row in self.rows if row.rank_metric), None),
            "against": self.against,
            "unfinished": self.unfinished,
            "times": self.times,
            "damaged": self.damaged,
            "rows": [row.record() for row in self.rows],
            "blocks": [{name: getattr(block, name) for name in Facts.__dataclass_fields__} for block in self.blocks],
            "fingerprints": self.blocks[0].fingerprints,
        }

    def frame(self) -> DataFrame:
        """Return the rows as a pandas DataFrame; each metric and each end of its interval is a column."""
        from pandas import DataFrame

        records = []
        for row in self.rows:
            ends = {
                f"{name}_{end}": value
                for name, interval in row.intervals.items()
                for end, value in zip(("low", "high"), interval, strict=True)
            }
            fields = {name: value for name, value in row.record().items() if name not in NO_COLUMNS}
            records.append({**fields, "block": row.block, **row.metrics, **ends})
        return DataFrame(records).set_index("label")
