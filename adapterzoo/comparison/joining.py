"""Join cells to rows: a row has all seeds of one label, from one output folder or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import isclose
from pathlib import Path

from adapterzoo.comparison.comparable import hardware
from adapterzoo.comparison.evidence import Evidence, StoredResult, collect_evidence
from adapterzoo.errors import UserError
from adapterzoo.metrics.measured import BY_COLUMN
from adapterzoo.results.result import SETTINGS, Result

# Machines round differently: accept a relative difference of 1 % between likelihoods of the same base model.
BASE_TOLERANCE = 0.01


def join_rows(group: Sequence[StoredResult]) -> list[Evidence]:
    """Return the rows of a block; a label of several folders is one row if only the seeds differ."""
    labels: dict[str, dict[Path, list[StoredResult]]] = {}
    for cell in group:
        labels.setdefault(cell.result.label, {}).setdefault(cell.run, []).append(cell)
    names = _short_names({cell.run for cell in group})
    rows = []
    for label, by_run in labels.items():
        cells = [cell for cells in by_run.values() for cell in cells]
        if cells[0].result.method is None and _agree([cell.result for cell in cells]):
            # The untouched base model is the same in every folder, so one folder's result is enough.
            most_metrics = max(sorted(by_run), key=lambda run: len(by_run[run][0].result.metrics))
            rows.append(collect_evidence(label, by_run[most_metrics]))
        elif len(by_run) == 1 or _are_one_row([cell.result for cell in cells]):
            rows.append(collect_evidence(label, cells))
        else:
            rows += [collect_evidence(f"{label} ({names[run]})", cells) for run, cells in by_run.items()]
    return rows


def split_by_base(group: Sequence[StoredResult]) -> list[list[StoredResult]]:
    """Return the cells of a block in groups, each with the same scores of the untouched base model.

    Groups are in the order of their first folders. A folder without a result of its base model is in the first group.
    """
    groups: list[list[StoredResult]] = []
    for run in dict.fromkeys(cell.run for cell in group):
        cells = [cell for cell in group if cell.run == run]
        same_base = next((earlier for earlier in groups if not bases_differ(earlier, cells)), None)
        if same_base is None:
            groups.append(cells)
        else:
            same_base += cells
    return groups


def bases_differ(first: Sequence[StoredResult], second: Sequence[StoredResult]) -> list[str]:
    """Return which scores show that two groups have different base models, one line for each score.

    On different hardware only likelihoods are compared, up to BASE_TOLERANCE.
    """
    lines = []
    for base, other_base in product(_bases(first), _bases(second)):
        if base.label != other_base.label:
            continue
        same_hardware = hardware(base) == hardware(other_base)
        tolerance = 1e-6 if same_hardware else BASE_TOLERANCE
        for name in base.metrics.keys() & other_base.metrics.keys():
            if not same_hardware and name not in BY_COLUMN:
                continue
            score, other_score = base.metrics[name], other_base.metrics[name]
            if not isclose(score, other_score, rel_tol=tolerance):
                lines.append(f"{base.label}: {name} is {score:.4g} there, {other_score:.4g} here")
    return sorted(set(lines))


def _bases(group: Sequence[StoredResult]) -> list[Result]:
    return [cell.result for cell in group if cell.result.method is None and cell.result.ok]


def _agree(results: Sequence[Result]) -> bool:
    """Tell whether the results have the same value of every metric; a result without the metric is left out."""
    names = {name for result in results for name in result.metrics}
    values_of_metrics = [[result.metrics[name] for result in results if name in result.metrics] for name in names]
    return all(
        isclose(value, values[0], rel_tol=1e-6, abs_tol=1e-9) for values in values_of_metrics for value in values
    )


def _are_one_row(results: Sequence[Result]) -> bool:
    """Tell whether results of one label are seeds of one row: no seed twice, and the same settings and general text."""
    seeds = [result.seed for result in results]
    # Failed results are left out, because tuning may have failed before it chose their settings.
    settings = {str([getattr(result, name) for name in SETTINGS]) for result in results if result.ok}
    texts = {str(result.recipe.get("evaluate", {}).get("general_text")) for result in results}
    return len(set(seeds)) == len(seeds) and len(settings) <= 1 and len(texts) == 1


def _short_names(folders: Iterable[Path]) -> dict[Path, str]:
    """Return a name for each folder: the last parts of its path, as few as are needed to make all names different."""
    folders = list(folders)
    paths = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, paths))):
        names = [str(Path(*parts[-count:])) for parts in paths]
        if len(set(names)) == len(names):
            return dict(zip(folders, names, strict=True))
    return {folder: str(folder) for folder in folders}


def check_labels(stored: Sequence[StoredResult]) -> None:
    """Check that all seeds of a label in one output folder have the same settings.

    Raises:
        UserError: a cell has other settings than the first cell of its label.
    """
    seen: dict[tuple[Path, str], Result] = {}
    for cell in stored:
        result = cell.result
        if result.method is None or not result.ok:
            continue
        first = seen.setdefault((cell.run, result.label), result)
        for name in SETTINGS:
            if getattr(result, name) != getattr(first, name):
                raise UserError.at(
                    str(cell.folder),
                    f"has other settings than seed {first.seed} of '{first.label}': "
                    f"{name} is {getattr(result, name)!r} here, {getattr(first, name)!r} there.",
                    "Move it to another output folder.",
                )
