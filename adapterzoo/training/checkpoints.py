"""Checkpoints of a training: each is whole, as its manifest says, or it is none.

The trainer writes a checkpoint file by file. The manifest is written last and in one go.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterzoo.digests import file_digest, text_digest
from adapterzoo.files import remove_folder, write_atomically

MANIFEST = "manifest.json"
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole."""

    path: Path
    step: int
    """optimizer steps that were done"""
    seconds: float
    """that training had taken"""


def complete(path: Path, seconds: float) -> None:
    """Write the manifest of a checkpoint of which all files are written.

    Args:
        path: the checkpoint's folder.
        seconds: that training has taken so far.
    """
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != MANIFEST]
    digests = {file.relative_to(path).as_posix(): file_digest(file) for file in files}
    held = {"step": _step(path), "seconds": seconds, "files": digests}
    write_atomically(path / MANIFEST, json.dumps({**held, "digest": _digest(held)}, indent=1))


def newest(folder: Path, *, wanted: bool) -> Checkpoint | None:
    """Return the newest whole checkpoint in a folder, and remove all others.

    Left there, an older one would be taken for the newest by the trainer, and its own be deleted as the oldest.

    Args:
        folder: of a cell's checkpoints.
        wanted: whether training may go on from one; if not, all are removed.
    """
    found = None
    for path in reversed(_all(folder)):
        if found is None and wanted:
            found = _whole(path)
        if found is None or found.path != path:
            remove_folder(path)
    return found


def keep_newest(folder: Path, limit: int) -> None:
    """Remove all but the newest checkpoints.

    Args:
        folder: of a cell's checkpoints.
        limit: how many to keep, at least one.
    """
    for path in _all(folder)[:-limit]:
        remove_folder(path)


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints, whole or not, by step."""
    steps = {path: NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    return sorted((path for path, match in steps.items() if match), key=_step)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _whole(path: Path) -> Checkpoint | None:
    """Return a checkpoint of which every file is what it was when it was written; None for any other."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        # Under the name of another step, it would be taken for more training than it is.
        named = manifest.pop("digest") == _digest(manifest) and manifest["step"] == _step(path)
        whole = named and all(file_digest(path / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Checkpoint(path, _step(path), manifest["seconds"]) if whole else None


def _digest(manifest: dict[str, Any]) -> str:
    return text_digest(json.dumps(manifest, sort_keys=True))
