"""Which cells are one row: the seeds of a label, of one folder or of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import isclose
from pathlib import Path

from adapterzoo.comparison import Cell
from adapterzoo.comparison.comparable import hardware
from adapterzoo.comparison.evidence import Evidence, make
from adapterzoo.errors import UserError
from adapterzoo.results.result import SETTINGS, Result
from adapterzoo.results.row import LIKELIHOOD

# Machines round differently: accept a relative difference of 1 % between likelihoods of the same base model.
BASE_TOLERANCE = 0.01


def rows(group: Sequence[Cell]) -> list[Evidence]:
    """The rows of a block: a label of several folders is one row where it is the same thing with other seeds."""
    labels: dict[str, dict[Path, list[Cell]]] = {}
    for cell in group:
        labels.setdefault(cell.result.label, {}).setdefault(cell.run, []).append(cell)
    names = _names({cell.run for cell in group})
    made = []
    for label, by_run in labels.items():
        cells = [cell for cells in by_run.values() for cell in cells]
        if cells[0].result.method is None and _agree([cell.result for cell in cells]):
            # The untouched base is the same in every folder of one recipe: take the one of which most is known.
            known = max(sorted(by_run), key=lambda run: len(by_run[run][0].result.metrics))
            made.append(make(label, by_run[known]))
        elif len(by_run) == 1 or _joins([cell.result for cell in cells]):
            made.append(make(label, cells))
        else:
            made += [make(f"{label} ({names[run]})", cells) for run, cells in by_run.items()]
    return made


def apart(group: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells of a block in groups whose untouched bases scored alike, in the order of their first folders.

    A folder without a base goes with the first one.
    """
    groups: list[list[Cell]] = []
    for run in dict.fromkeys(cell.run for cell in group):
        cells = [cell for cell in group if cell.run == run]
        like = next((found for found in groups if not bases_differ(found, cells)), None)
        if like is None:
            groups.append(cells)
        else:
            like += cells
    return groups


def bases_differ(group: Sequence[Cell], other: Sequence[Cell]) -> list[str]:
    """Return by which scores the untouched bases of two groups of cells cannot be one model, a line each.

    On other hardware they round otherwise: there only likelihoods count, up to BASE_TOLERANCE.
    """
    found = []
    for one, two in product(_bases(group), _bases(other)):
        if one.label != two.label:
            continue
        exact = hardware(one) == hardware(two)
        for name in one.metrics.keys() & two.metrics.keys():
            if not exact and name not in LIKELIHOOD:
                continue
            if not isclose(one.metrics[name], two.metrics[name], rel_tol=1e-6 if exact else BASE_TOLERANCE):
                found.append(f"{one.label}: {name} is {one.metrics[name]:.4g} there, {two.metrics[name]:.4g} here")
    return sorted(set(found))


def _bases(group: Sequence[Cell]) -> list[Result]:
    return [cell.result for cell in group if cell.result.method is None and cell.result.ok]


def _agree(results: Sequence[Result]) -> bool:
    """Whether all results have the same value of every metric that they share; failures have none."""
    names = {name for result in results for name in result.metrics}
    values = [[result.metrics[name] for result in results if name in result.metrics] for name in names]
    return all(isclose(value, found[0], rel_tol=1e-6, abs_tol=1e-9) for found in values for value in found)


def _joins(results: Sequence[Result]) -> bool:
    seeds = [result.seed for result in results]
    # Of a failure, tuning may not have come to an end.
    settings = {str([getattr(result, name) for name in SETTINGS]) for result in results if result.ok}
    texts = {str(result.recipe.get("evaluate", {}).get("general_text")) for result in results}
    return len(set(seeds)) == len(seeds) and len(settings) <= 1 and len(texts) == 1


def _names(folders: Iterable[Path]) -> dict[Path, str]:
    """A short name for each folder, different ones for different folders."""
    folders = list(folders)
    parts = [folder.resolve().parts for folder in folders]
    for many in range(1, max(map(len, parts))):
        last = [str(Path(*one[-many:])) for one in parts]
        if len(set(last)) == len(last):
            return dict(zip(folders, last, strict=True))
    return {folder: str(folder) for folder in folders}


def check_labels(found: Sequence[Cell]) -> None:
    """Raises UserError where the seeds of one label in one folder are not of one thing."""
    seen: dict[tuple[Path, str], Result] = {}
    for cell in found:
        result = cell.result
        if result.method is None or not result.ok:
            continue
        other = seen.setdefault((cell.run, result.label), result)
        for name in SETTINGS:
            if getattr(result, name) != getattr(other, name):
                raise UserError.at(
                    str(cell.folder),
                    f"is not the '{other.label}' of seed {other.seed}: "
                    f"{name} is {getattr(result, name)!r} here, {getattr(other, name)!r} there.",
                )
