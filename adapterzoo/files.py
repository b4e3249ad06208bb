"""Files and folders that are whole or not there, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "ADAPTERZOO_CACHE"


def cache_folder() -> Path:
    """Return where converted models, tokens and digests are kept: ``$ADAPTERZOO_CACHE``, else the user's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("adapterzoo", appauthor=False))


def aside(path: Path) -> Path:
    """Return where a file or folder is written before it takes its name, or lies while it is removed."""
    return path.with_name(f".{path.name}.new")


def write_whole(path: Path, text: str) -> None:
    """Write a file in one go, and have it on the disk before it takes its name."""
    with aside(path).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside(path), path)


def remove_folder(folder: Path) -> None:
    """Remove a folder, or a file in its place; killed on the way, nothing of it is left under its name."""
    if folder.is_file():
        folder.unlink()
    if folder.is_dir():
        shutil.rmtree(aside(folder), ignore_errors=True)
        os.replace(folder, aside(folder))
    shutil.rmtree(aside(folder), ignore_errors=True)
