"""Look into the folder of a saved adapter: its files, and its weights."""

from __future__ import annotations

from pathlib import Path

from adapterzoo.digests import file_digest

WEIGHTS = "*.safetensors"


def adapter_files(folder: Path) -> dict[str, str]:
    """Return path -> digest for the files in an adapter's folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def has_weights(folder: Path) -> bool:
    """Tell whether a method has saved weights as safetensors in a folder, or in a folder below it."""
    return any(folder.rglob(WEIGHTS))


def weight_bytes(folder: Path) -> int:
    """Return the size of the weights in an adapter's folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob(WEIGHTS))
