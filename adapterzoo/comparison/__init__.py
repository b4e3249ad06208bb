"""The comparison of finished results: rows in blocks that can be compared. No torch in here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.comparison import comparable
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.results.result import Result, read_results, run_times, unfinished
from adapterzoo.results.row import HIGHER, Row, better, metric_columns

if TYPE_CHECKING:
    from pandas import DataFrame

    from adapterzoo.comparison.evidence import Evidence

# Of what ``compare --format json`` prints; docs/comparison.schema.json describes it.
SCHEMA = 3
# Fields of a row that are no column.
NO_COLUMNS = frozenset({
    "metrics", "intervals", "options", "adjusted", "lower_is_better", "fingerprints", "environment", "history", "ties",
    "tuning", "difference_interval", "block", "rank_metric", "unproven", "damaged", "seconds",
})  # fmt: skip


# And those that rows have no order by.
UNSORTED = frozenset({"difference", "p_value", "tied", "examples", "error", "status", "adjusted"})


class Cell(NamedTuple):
    """A result, and where it is."""

    run: Path
    """the output folder"""
    folder: Path
    """the cell's own, in it"""
    result: Result


@dataclass(frozen=True)
class Facts:
    """What holds for all rows of a block, as in ``compare --format json``."""

    __pydantic_config__ = {"use_attribute_docstrings": True}  # for its schema  # noqa: RUF012

    differs: list[str]
    """from the first block, a line for each reason why its rows cannot be ranked among these"""
    costs_differ: list[str]
    """what differs between the machines of its rows: their times and memory cannot be compared"""
    fingerprints: dict[str, str | None]
    """hashes of what its first row was made of"""
    environment: dict[str, Any]
    """package versions and hardware of its first row"""


@dataclass(frozen=True)
class Block(Facts):
    """Rows that can be compared with each other."""

    evidence: list[Evidence] = field(repr=False)

    @property
    def rows(self) -> list[Row]:
        """In order."""
        return [evidence.row for evidence in self.evidence]


class Comparison:
    """Rows in order, block by block; ``frame()`` gives a pandas DataFrame."""

    def __init__(
        self,
        blocks: Sequence[Block],
        against: str | None = None,
        unfinished: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
        times: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.blocks = list(blocks)
        self.against = against
        """the label that the others are compared with; None stands for the best"""
        self.unfinished = dict(unfinished or {})
        """folder -> label -> seeds that its last run was to do, and that have no result"""
        self.times = dict(times or {})
        """folder -> what the seconds of all processes of its last run were spent on"""

    @property
    def rows(self) -> list[Row]:
        """Those of all blocks."""
        return [row for block in self.blocks for row in block.rows]

    @property
    def results(self) -> list[Result]:
        """The cells of all rows."""
        return [result for block in self.blocks for evidence in block.evidence for result in evidence.results]

    @property
    def metrics(self) -> list[str]:
        """The columns of all metrics, those that compare answers first; rows are in the order of the first."""
        return metric_columns(self.rows)

    def better(self, column: str) -> Callable[..., Any] | None:
        """``max`` or ``min``; None where there is no better and worse."""
        return better(self.rows, column)

    def records(self) -> dict[str, Any]:
        """As in ``compare --format json``."""
        return {
            "schema": SCHEMA,
            "rank_metric": next((row.rank_metric for row in self.rows if row.rank_metric), None),
            "against": self.against,
            "unfinished": self.unfinished,
            "times": self.times,
            "rows": [row.record() for row in self.rows],
            "blocks": [{name: getattr(block, name) for name in Facts.__dataclass_fields__} for block in self.blocks],
            "fingerprints": self.blocks[0].fingerprints,
        }

    def frame(self) -> DataFrame:
        """The rows as a pandas DataFrame, metrics and the ends of their intervals as columns of their own."""
        from pandas import DataFrame

        flat = []
        for row in self.rows:
            ends = {
                f"{name}_{end}": value
                for name, found in row.intervals.items()
                for end, value in zip(("low", "high"), found, strict=True)
            }
            record = {name: value for name, value in row.record().items() if name not in NO_COLUMNS}
            flat.append({**record, "block": row.block, **row.metrics, **ends})
        return DataFrame(flat).set_index("label")


def compare(
    *folders: str | Path, sort: str | None = None, against: str | None = None, price: float | None = None
) -> Comparison:
    """The comparison of everything that is on disk in one or several output folders.

    Args:
        folders: those of runs. What cannot be compared with the first one's rows stands in blocks of its own.
        sort: a column to order by, best first; by default the first metric there is.
        against: the label of a row that all others are compared with, in place of the best.
        price: of an hour of the machine, in whatever currency.

    Raises:
        UserError: a folder holds no results, results cannot be read, or there is no such column or label.
    """
    from adapterzoo.comparison import joining
    from adapterzoo.comparison.ranking import rank

    if price is not None and not 0 < price < float("inf"):
        raise UserError.at(f"--price {price}", "is no price of an hour.", "Give a number above 0.")
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    read = {path: read_results(path) for path in paths}
    found = [Cell(path, *cell) for path, cells in read.items() for cell in cells]
    joining.check_labels(found)
    where = {id(cell.result): cell for cell in found}
    alike = comparable.blocks([cell.result for cell in found])
    groups = [group for results in alike for group in joining.apart([where[id(result)] for result in results])]
    evidence = [joining.rows(group) for group in groups]
    rows = [one.row for block in evidence for one in block]
    column = _column(sort, rows)
    labels = [row.label for row in rows]
    if against is not None and against not in labels:
        raise UserError.at(f"--against {against}", "there is no such row.", did_you_mean(against, labels))
    for row in rows:
        # The untouched base cost nothing to make.
        row.cost = None if price is None or row.method is None else row.total_seconds / 3600 * price
    metrics = metric_columns(rows)
    metric = column if column in metrics else next(iter(metrics), None)
    blocks = []
    for number, block in enumerate(evidence):
        for row in (one.row for one in block):
            row.block, row.rank_metric = number, metric
        rank(block, metric, against)
    if sort is not None and all(row.value(column) is None for row in rows):
        hint = "Give --price too." if column == "cost" else ""
        raise UserError.at(f"--sort {sort}", "no row has a value there.", hint)
    first = groups[0]
    for group, block in zip(groups, evidence, strict=True):
        results = [cell.result for cell in group]
        differs = comparable.what_differs(first[0].result, results[0]) or joining.bases_differ(first, group)
        blocks.append(
            Block(
                differs=differs if group is not first else [],
                costs_differ=comparable.hardware_differs(results),
                fingerprints=results[0].fingerprints,
                environment=results[0].environment,
                evidence=in_order(block, column),
            )
        )
    missing = {str(path): unfinished(path, (result for _, result in cells)) for path, cells in read.items()}
    times = {str(path): run_times(path) for path in read}
    return Comparison(blocks, against, {folder: labels for folder, labels in missing.items() if labels}, times)


def in_order(block: Iterable[Evidence], column: str) -> list[Evidence]:
    """Best first; rows without the value, and those that came to nothing, last, in alphabetical order."""
    ordered = sorted(block, key=lambda one: one.row.label)
    with_value = [one for one in ordered if one.row.value(column) is not None and one.row.metrics]
    without = [one for one in ordered if one not in with_value]
    down = better([one.row for one in ordered], column) is HIGHER
    return sorted(with_value, key=lambda one: one.row.value(column), reverse=down) + without


def _column(sort: str | None, rows: Sequence[Row]) -> str:
    """The column that rows are ordered by.

    Raises:
        UserError: there is no such column.
    """
    if sort is None:
        return next(iter(metric_columns(rows)), "label")
    known = {*metric_columns(rows), *Row.__dataclass_fields__} - NO_COLUMNS - UNSORTED
    if sort not in known:
        raise UserError.at(f"--sort {sort}", "there is no such column.", did_you_mean(sort, known))
    return sort
