"""Write and remove files so that a process that is killed leaves no incomplete file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "ADAPTERZOO_CACHE"


def cache_folder() -> Path:
    """Return the folder for converted models, tokens and digests: ``$ADAPTERZOO_CACHE``, or one in the user's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("adapterzoo", appauthor=False))


def temporary_path(path: Path) -> Path:
    """Return the path that a file or folder has while it is written or removed."""
    return path.with_name(f".{path.name}.new")


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name, and rename it once it is on the disk."""
    with temporary_path(path).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary_path(path), path)


def remove_folder(folder: Path) -> None:
    """Remove a folder, or a file of that name.

    The folder is renamed first, so that a folder of that name is always complete, even if the process is killed.
    """
    if folder.is_file():
        folder.unlink()
    if folder.is_dir():
        shutil.rmtree(temporary_path(folder), ignore_errors=True)
        os.replace(folder, temporary_path(folder))
    shutil.rmtree(temporary_path(folder), ignore_errors=True)
