"""Read and write the note in an output folder: what all its runs share, and the plan and times of the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from adapterzoo.digests import DIGEST, is_intact, signed
from adapterzoo.files import read_text, write_atomically

if TYPE_CHECKING:
    from adapterzoo.results.reading import StoredResults

NOTE = ".adapterzoo.json"
TIMES = "times"  # key for the times of the last run into the folder
MAX_BYTES = 2**28  # larger notes and results are not read: a step of the loss history has about 100 bytes
# The errors of reading a note that is damaged or missing.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_CELLS_TYPE = TypeAdapter(list[tuple[str, int]])


def read_note(folder: Path) -> dict[str, Any]:
    """Return the note of an output folder.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is damaged.
    """
    note = json.loads(read_text(folder / NOTE, MAX_BYTES))
    if not isinstance(note, dict) or not isinstance(note.get("identity", {}), dict):
        raise ValueError(f"{NOTE} is not a note")
    if not is_intact(note):
        raise ValueError(f"{NOTE} is not what a run wrote")
    return {name: value for name, value in note.items() if name != DIGEST}


def write_note(folder: Path, note: Mapping[str, Any]) -> None:
    """Write the note of an output folder."""
    write_atomically(folder / NOTE, json.dumps(signed(note), indent=1))


def run_times(folder: Path) -> dict[str, float]:
    """Return the seconds of each activity of the last run into an output folder; empty if they are not known."""
    try:
        return {str(name): float(seconds) for name, seconds in read_note(folder)[TIMES].items()}
    except UNREADABLE:
        return {}


def planned(folder: Path) -> list[tuple[str, int]]:
    """Return label and seed of each cell of the last run into an output folder; empty if they are not known."""
    try:
        return _CELLS_TYPE.validate_python(read_note(folder)["cells"])
    except UNREADABLE:  # written by an old version, or damaged
        return []


def unfinished(folder: Path, stored: StoredResults) -> dict[str, list[int]]:
    """Return label -> seeds that the last run into an output folder planned and that have no result.

    Args:
        folder: the output folder.
        stored: its results; a damaged one counts as a result.
    """
    done = {(cell.parent.name, cell.name) for cell in (*stored.damaged, *(cell for cell, _ in stored.cells))}
    missing: dict[str, list[int]] = {}
    for label, seed in planned(folder):
        if (label, f"seed-{seed}") not in done:
            missing.setdefault(label, []).append(seed)
    return missing
