"""Read the results of cells from disk, also damaged and older ones. This module does not import torch."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from adapterzoo.digests import is_intact
from adapterzoo.errors import Problem, UserError
from adapterzoo.files import link_out_of, read_text
from adapterzoo.results.note import MAX_BYTES, NOTE, UNREADABLE, read_note
from adapterzoo.results.result import RESULT, SCHEMA, Result

QUANTIZATION_SCHEMA = 3  # in earlier schemas the key of the quantization is "base"
MAX_FOLDERS_SHOWN = 3
MAX_DIGITS = 30
SECTIONS = ("model", "data", "train", "evaluate")  # sections of the recipe that a comparison reads
_RESULT_TYPE = TypeAdapter(Result)


class DamagedResultError(UserError):
    """The result of a cell cannot be read, or is not what the run wrote."""


class StoredResults(NamedTuple):
    """The results of an output folder, and the damaged ones."""

    cells: list[tuple[Path, Result]]
    """folder of each cell and its result, in the order of label and seed"""
    damaged: dict[Path, Problem]
    """folder of each cell whose result cannot be used -> what is wrong"""


def read_results(folder: Path) -> StoredResults:
    """Return the results in an output folder.

    Raises:
        UserError: it is not an output folder, all its results are damaged, a newer adapterzoo has written one, or a
            link leads out of it.
    """
    paths = sorted(folder.glob(f"*/seed-*/{RESULT}"))
    if not paths:
        what = "is not a folder" if folder.exists() else "there is no such folder"
        what = "holds no results" if folder.is_dir() else what
        raise UserError.at(str(folder), f"{what}.", f"Give the --out folder of a run.{_with_overrides(folder)}")
    refuse_links(folder)
    stored = stored_results(paths)
    if not stored.cells:
        raise UserError(*stored.damaged.values())
    return stored


def stored_results(paths: Iterable[Path]) -> StoredResults:
    """Return the results in files.

    Raises:
        UserError: a newer adapterzoo has written one.
    """
    cells, damaged = [], {}
    for path in paths:
        try:
            cells.append((path.parent, read_result(path)))
        except DamagedResultError as error:
            damaged[path.parent] = error.problems[0]
    return StoredResults(sorted(cells, key=lambda cell: (cell[1].label, cell[1].seed)), damaged)


def refuse_links(folder: Path) -> None:
    """Raise UserError if a link leads out of an output folder: a stranger's folder must not reach other files."""
    if link := link_out_of(folder):
        raise UserError.at(str(link), f"is a link that leads out of {folder}.", "Put the file itself in its place.")


def _with_overrides(folder: Path) -> str:
    """Return a sentence that names the folders of runs of the same recipe with --set; empty if there are none."""
    folders = folder.parent.glob(f"{glob.escape(folder.name)}-????????")
    notes = sorted((path / NOTE for path in folders if (path / NOTE).is_file()), key=lambda note: note.stat().st_mtime)
    newest = [str(note.parent) for note in notes[: -MAX_FOLDERS_SHOWN - 1 : -1]]
    return f" Runs with --set have folders of their own: {', '.join(newest)}." if newest else ""


def _from_schema_1(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields that schema 1 keeps under other names, and the recipe, which it keeps once per folder."""
    recipe_hash = raw.get("recipe_hash")
    values = {"fingerprints": {"recipe": recipe_hash, "data": raw.get("data_fingerprint")}}
    try:
        note = read_note(path.parents[2])
        return {**values, "recipe": note["identity"]} if note["recipe_hash"] == recipe_hash else values
    except (*UNREADABLE, IndexError):
        return values


def read_result(path: Path) -> Result:
    """Read the result of one cell.

    Raises:
        DamagedResultError: the file is damaged.
        UserError: it was written by a newer version of adapterzoo.
    """
    try:
        raw = json.loads(read_text(path, MAX_BYTES), parse_int=_whole_number)
        intact = is_intact(raw)
        if raw["schema"] > SCHEMA and intact:
            what = f"was written by a newer adapterzoo (schema {raw['schema']})."
            raise UserError.at(str(path), what, "Update adapterzoo.")
        if raw["schema"] == 1:
            raw.update(_from_schema_1(raw, path))
        if raw["schema"] < QUANTIZATION_SCHEMA:
            raw["quantization"] = raw.pop("base")
        # Take label and seed from the folders' names, because people rename and copy folders.
        label, seed = path.parents[1].name, int(path.parent.name.removeprefix("seed-"))
        names = {field.name for field in fields(Result)}
        values = {name: value for name, value in raw.items() if name in names}
        result = _RESULT_TYPE.validate_python({**values, "label": label, "seed": seed})
        if not (_has_mappings(result.recipe, SECTIONS) and _has_mappings(result.environment, ("packages",))):
            raise ValueError("a section is no mapping")
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, details["loc"])) for details in error.errors())
        raise _damaged(path, f"wrong values of {keys}") from None
    except OSError as error:
        raise _damaged(path, error.strerror or "it cannot be read") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, "it is not a result in JSON") from None
    if result.ok and result.method and not result.metrics:
        return replace(result, status="failed", error=f"{path.parent.name}/{RESULT} holds no metrics")
    if not intact:
        raise _damaged(path, "it is not what the run wrote")
    return result


def _has_mappings(values: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Tell whether the values of these names are mappings; they may be missing."""
    return all(isinstance(values.get(name, {}), dict) for name in names)


def _whole_number(digits: str) -> int:
    """Return a whole number of a result.

    Raises:
        ValueError: it has more digits than anything that is counted, and would not fit into a float.
    """
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"{digits:.10}... has {len(digits)} digits")
    return int(digits)


def _damaged(path: Path, why: str) -> DamagedResultError:
    problem = Problem(str(path), f"is damaged: {why}.", "Run the recipe again: it makes this cell again.")
    return DamagedResultError(problem)
