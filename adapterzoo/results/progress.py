"""Write and read the progress of a run that is under way, for whoever follows the run from another process."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from adapterzoo.files import read_text, temporary_path
from adapterzoo.machine.processes import process_started
from adapterzoo.results.claim_files import CLAIMS

PROGRESS = ".progress.json"
MAX_BYTES = 2**20
# A run on another machine counts as under way as long as its file is not older than this.
FRESH_SECONDS = 120.0


class CellProgress(TypedDict):
    """The progress of a cell that is running."""

    label: str
    seed: int
    phase: str
    """what is done: training or measuring, for instance"""
    step: int
    """number of training steps that are done; 0 if it is not training"""
    steps: int
    loss: float
    seconds_left: float | None
    """seconds until its training ends; None if that is not known"""


class _File(TypedDict):
    host: str
    process: int
    started: float
    running: list[CellProgress]


_TYPE = TypeAdapter(_File)


def progress_file(folder: Path, shared: bool = False) -> Path:
    """Return the file for the progress of this process's run, one of its own if workers share the folder."""
    return folder / CLAIMS / f"progress-{uuid.uuid4().hex}.json" if shared else folder / PROGRESS


def write_progress(path: Path, running: Sequence[CellProgress]) -> None:
    """Write the progress of this process's run; nothing if that is impossible, because the run must not fail of it."""
    process = os.getpid()
    written = {
        "host": platform.node(),
        "process": process,
        "started": process_started(process),
        "running": list(running),
    }
    with suppress(OSError):
        # It is not waited until it is on the disk, because nobody needs it after the machine has stopped.
        temporary_path(path).write_text(json.dumps(written), encoding="utf-8")
        os.replace(temporary_path(path), path)


def remove_progress(path: Path) -> None:
    """Remove the progress of a run that has ended."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def read_progress(folder: Path) -> list[CellProgress] | None:
    """Return the cells that are running; None if no run is under way in this folder.

    The file of a run that was killed stays. It is then known by its process, which does not exist any more.
    """
    paths = [folder / PROGRESS, *sorted((folder / CLAIMS).glob("progress-*.json"))]
    running = [cells for path in paths if (cells := _read(path)) is not None]
    return [cell for cells in running for cell in cells] if running else None


def _read(path: Path) -> list[CellProgress] | None:
    """Return the cells that run in one process; None if the file is of a run that has ended, or is damaged."""
    try:
        if path.is_symlink():
            return None
        age = time.time() - path.stat().st_mtime
        found = _TYPE.validate_json(read_text(path, MAX_BYTES))
    except (OSError, ValueError, ValidationError):
        return None
    if found["host"] != platform.node():
        return found["running"] if age < FRESH_SECONDS else None
    return found["running"] if process_started(found["process"]) == found["started"] else None
