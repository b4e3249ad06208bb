"""Damage files and folders as a disk, a person or another program may do it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def _flipped(share: float) -> Damage:
    """Return a function that flips a bit of the byte at a share of a file's length."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(share * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return flip


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "lost+found").write_text("x")


def remove_anything(path: Path) -> None:
    """Remove a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def become_file(path: Path) -> None:
    """Put a file in the place of a file or a folder."""
    remove_anything(path)
    path.write_text("neither a folder nor what was there")


DAMAGES: dict[str, Damage] = {
    "cut": _cut,
    "emptied": lambda path: path.write_bytes(b""),
    "without its last byte": lambda path: path.write_bytes(path.read_bytes().rstrip()[:-1]),
    "first byte flipped": _flipped(0.0),
    "a byte flipped": _flipped(0.3),
    "another byte flipped": _flipped(0.6),
    "filled with zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "written twice": lambda path: path.write_bytes(path.read_bytes() * 2),
    "another type": lambda path: path.write_text("[]"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00" * 9),
    "a folder": _become_folder,
    "deleted": remove_anything,
}
"""name -> function that damages a file; none of them leaves the content as it was"""
