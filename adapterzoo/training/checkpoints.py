"""Write, find and remove checkpoints; a checkpoint is used only if its manifest shows that it is complete.

The trainer writes a checkpoint file by file. The manifest is written last, in one step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterzoo.digests import file_digest, text_digest
from adapterzoo.files import remove, stays_inside, sync, write_atomically

MANIFEST = "manifest.json"
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    step: int
    """number of optimizer steps that were done"""
    seconds: float
    """time that training had taken"""


def complete(path: Path, seconds: float) -> None:
    """Write the manifest of a checkpoint, after all its files were written.

    Args:
        path: the checkpoint's folder.
        seconds: time that training has taken so far.
    """
    sync(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != MANIFEST]
    digests = {file.relative_to(path).as_posix(): file_digest(file) for file in files}
    manifest = {"step": _step(path), "seconds": seconds, "files": digests}
    write_atomically(path / MANIFEST, json.dumps({**manifest, "digest": _digest(manifest)}, indent=1))


def newest(folder: Path, *, wanted: bool, say: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
    """Return the newest complete checkpoint in a folder, if there is one, and remove all others.

    The others are removed because the trainer could resume from one of them.

    Args:
        folder: folder of a cell's checkpoints.
        wanted: whether training may resume from a checkpoint; if not, all are removed.
        say: is called with a sentence if the newest one cannot be used.
    """
    checkpoint, unusable = None, list[str]()
    for path in reversed(_all(folder)):
        if checkpoint is None and wanted:
            checkpoint = _read(path)
            unusable += [] if checkpoint else [path.name]
        if checkpoint is None or checkpoint.path != path:
            remove(path)
    if unusable:
        instead = f"goes on from step {checkpoint.step}" if checkpoint else "begins anew"
        say(f"{', '.join(unusable)}: not written to its end, or damaged; training {instead}")
    return checkpoint


def find(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint in a folder, if there is one, and leave the folder as it is."""
    return next((checkpoint for path in reversed(_all(folder)) if (checkpoint := _read(path))), None)


def completed(folder: Path) -> list[Path]:
    """Return the folders of the checkpoints that were written to their end, in the order of their steps."""
    return [path for path in _all(folder) if (path / MANIFEST).is_file()]


def keep_newest(folder: Path, limit: int) -> None:
    """Remove all but the newest checkpoints.

    Args:
        folder: folder of a cell's checkpoints.
        limit: number of checkpoints to keep, at least one.
    """
    for path in _all(folder)[:-limit]:
        remove(path)


def _all(folder: Path) -> list[Path]:
    """Return the folders of all checkpoints, complete or not, in the order of their steps."""
    matches = {path: NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    return sorted((path for path, match in matches.items() if match), key=_step)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _read(path: Path) -> Checkpoint | None:
    """Return a checkpoint if every file is as it was written, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        # Compare the step with the name, because a copy under another name would count as another amount of training.
        valid = manifest.pop("digest") == _digest(manifest) and manifest["step"] == _step(path)
        files = manifest["files"]
        intact = valid and all(stays_inside(name) and (path / name).is_file() for name in files)
        intact = intact and all(file_digest(path / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Checkpoint(path, _step(path), manifest["seconds"]) if intact else None


def _digest(manifest: dict[str, Any]) -> str:
    return text_digest(json.dumps(manifest, sort_keys=True))
