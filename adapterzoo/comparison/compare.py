"""Make a comparison: read the results of output folders, build the rows, rank them and put them in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo.comparison.comparable import comparable_groups, hardware_differs, what_differs
from adapterzoo.comparison.comparison import NO_COLUMNS, Block, Comparison
from adapterzoo.comparison.order import HIGHER, better, metric_columns
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.results.note import run_times, unfinished
from adapterzoo.results.reading import read_results
from adapterzoo.results.row import Row

if TYPE_CHECKING:
    from adapterzoo.comparison.evidence import Evidence, StoredResult
    from adapterzoo.comparison.ranking import PairedRows

# Columns that rows cannot be sorted by.
NOT_SORTABLE = frozenset({"difference", "p_value", "tied", "examples", "error", "status", "adjusted"})


def compare(
    *folders: str | Path, sort: str | None = None, against: str | None = None, price: float | None = None
) -> Comparison:
    """Compare everything that is on disk in one or several output folders.

    Args:
        folders: output folders of runs. Rows that cannot be compared with the first folder's are in other blocks.
        sort: the column to order the rows by, best first; by default the first metric.
        against: the label of the row that all others are compared with; by default the best row.
        price: the price, in any currency, of one hour of what a cell runs on: a GPU, or a part of the machine if cells
            run side by side on it.

    Raises:
        UserError: a folder holds no results, a result cannot be read, there is no such column or label, or the row
            to compare with is not ranked.
    """
    # Imported here because they import numpy, which would slow down every start of the command line.
    from adapterzoo.comparison.evidence import StoredResult
    from adapterzoo.comparison.joining import check_labels, join_rows
    from adapterzoo.comparison.ranking import rank

    if price is not None and not 0 < price < float("inf"):
        raise UserError.at(f"--price {price}", "is no price of an hour.", "Give a number above 0.")
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    by_path = {path: read_results(path) for path in paths}
    stored = [StoredResult(path, *cell) for path, of_path in by_path.items() for cell in of_path.cells]
    check_labels(stored)
    groups = _groups(stored)
    evidence_of_groups = [join_rows(group) for group in groups]
    rows = [evidence.row for group in evidence_of_groups for evidence in group]
    column = _sort_column(sort, rows)
    labels = [row.label for row in rows]
    if against is not None and against not in labels:
        raise UserError.at(f"--against {against}", "there is no such row.", did_you_mean(against, labels))
    if any(row.label == against and not row.ranked for row in rows):
        raise UserError.at(f"--against {against}", "this row is not ranked, because its method broke a rule.")
    metrics = metric_columns(rows)
    pairs = []
    for number, group in enumerate(evidence_of_groups):
        metric = column if column in metrics else next(iter(metrics), None)
        if all(metric not in evidence.row.metrics for evidence in group):  # for example, another task's rows
            metric = next(iter(metric_columns([evidence.row for evidence in group])), metric)
        for evidence in group:
            row = evidence.row
            row.block, row.rank_metric = number, metric
            # The untouched base model was not trained, so it has no cost.
            row.cost = None if price is None or row.method is None else row.total_seconds / 3600 * price
        pairs.append(rank(group, metric, against))
    if sort is not None and all(row.value(column) is None for row in rows):
        hint = "Give --price too." if column == "cost" else ""
        raise UserError.at(f"--sort {sort}", "no row has a value in this column.", hint)
    ordered = [_in_order(group, column if sort else group[0].row.rank_metric or column) for group in evidence_of_groups]
    missing = {str(path): unfinished(path, of_path) for path, of_path in by_path.items()}
    damaged = {str(path): list(map(str, of_path.damaged.values())) for path, of_path in by_path.items()}
    return Comparison(
        _blocks(groups, ordered, pairs),
        against,
        {folder: seeds_by_label for folder, seeds_by_label in missing.items() if seeds_by_label},
        {str(path): run_times(path) for path in by_path},
        {folder: problems for folder, problems in damaged.items() if problems},
    )


def _groups(stored: Sequence[StoredResult]) -> list[list[StoredResult]]:
    """Return the cells in groups whose scores can be compared; each group becomes a block."""
    from adapterzoo.comparison.joining import split_by_base

    by_id = {id(cell.result): cell for cell in stored}
    groups = comparable_groups([cell.result for cell in stored])
    return [part for results in groups for part in split_by_base([by_id[id(result)] for result in results])]


def _blocks(
    groups: Sequence[Sequence[StoredResult]],
    ordered: Sequence[list[Evidence]],
    pairs: Sequence[Mapping[str, PairedRows]],
) -> list[Block]:
    """Return the blocks of a comparison.

    Args:
        groups: the cells of each block.
        ordered: the rows of each block, in order.
        pairs: the differences of all pairs of rows of each block.
    """
    from adapterzoo.comparison.joining import bases_differ

    first = groups[0]
    blocks = []
    for group, rows, paired in zip(groups, ordered, pairs, strict=True):
        results = [cell.result for cell in group]
        differs = [] if group is first else what_differs(first[0].result, results[0]) or bases_differ(first, group)
        costs_differ = hardware_differs(results)
        blocks.append(Block(differs, costs_differ, results[0].fingerprints, results[0].environment, rows, paired))
    return blocks


def _in_order(block: Iterable[Evidence], column: str) -> list[Evidence]:
    """Return the rows, best first; then those that are not ranked; last those that have no value or no metric."""
    by_label = sorted(block, key=lambda evidence: evidence.row.label)
    with_value = [evidence for evidence in by_label if evidence.row.value(column) is not None and evidence.row.metrics]
    without = [evidence for evidence in by_label if evidence not in with_value]
    highest_first = better([evidence.row for evidence in by_label], column) is HIGHER
    ordered = sorted(with_value, key=lambda evidence: evidence.row.value(column), reverse=highest_first)
    return sorted(ordered, key=lambda evidence: not evidence.row.ranked) + without


def _sort_column(sort: str | None, rows: Sequence[Row]) -> str:
    """Return the column that rows are ordered by.

    Raises:
        UserError: there is no such column.
    """
    if sort is None:
        return next(iter(metric_columns(rows)), "label")
    known = {*metric_columns(rows), *Row.__dataclass_fields__} - NO_COLUMNS - NOT_SORTABLE
    if sort not in known:
        raise UserError.at(f"--sort {sort}", "there is no such column.", did_you_mean(sort, known))
    return sort
