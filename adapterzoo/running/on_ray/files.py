"""Carry the files of a cell between the output folder and a node of a Ray cluster that does not see it.

Checkpoints and the trials of a tuning come as soon as they are complete, everything else when the cell has ended. All
is written aside and renamed, and the result last, as :mod:`adapterzoo.results.store` does it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from adapterzoo.files import new_folder, remove, stays_inside, sync, temporary_path
from adapterzoo.prepare.plan import Cell
from adapterzoo.results.result import RESULT
from adapterzoo.results.store import CHECKPOINTS, SETTINGS, Store
from adapterzoo.running.tuning import JOURNAL
from adapterzoo.training import checkpoints

PART_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Kept:
    """The files on a node by which another process could go on."""

    checkpoints: dict[str, str] = field(default_factory=dict)
    """folder of a cell -> name of its newest complete checkpoint"""
    journals: dict[str, int] = field(default_factory=dict)
    """path of a journal of trials -> its size"""


def kept_files(folder: Path) -> Kept:
    """Return the files in a node's folder by which another process could go on."""
    newest, journals = {}, {}
    for path in folder.glob(f"*/seed-*/{CHECKPOINTS}"):
        if completed := checkpoints.completed(path):
            newest[path.parent.relative_to(folder).as_posix()] = completed[-1].name
    for path in folder.glob(f"*/{JOURNAL}"):
        with suppress(OSError):
            journals[path.relative_to(folder).as_posix()] = path.stat().st_size
    return Kept(newest, journals)


def complete_files(folder: Path, name: str) -> dict[str, int]:
    """Return path -> size for the files below a folder of a node's folder, without those that are being written."""
    found = {}
    for path in sorted(_inside(folder, name).rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and not any(_is_temporary(part) for part in relative.parts):
            found[relative.as_posix()] = path.stat().st_size
    return found


def read_part(folder: Path, name: str, start: int) -> bytes | None:
    """Return at most PART_BYTES bytes of a file in a node's folder; None if it does not exist."""
    try:
        with _inside(folder, name).open("rb") as file:
            file.seek(start)
            return file.read(PART_BYTES)
    except FileNotFoundError:
        return None


def write_part(folder: Path, name: str, start: int, content: bytes) -> None:
    """Write a part of a file into a node's folder."""
    path = _inside(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.write(content)


class Remote(Protocol):
    """A folder of a node, as the machine of the run sees it."""

    def files(self, name: str) -> dict[str, int]:
        """Return path -> size for the complete files in a folder."""

    def read(self, name: str, start: int) -> bytes | None:
        """Return a part of a file; None if it does not exist."""

    def write(self, name: str, start: int, content: bytes) -> None:
        """Write a part of a file."""

    def clear(self) -> None:
        """Remove all files."""


class CellFiles:
    """The files of one cell that is done on a node."""

    def __init__(self, remote: Remote, store: Store, cell: Cell) -> None:
        self._remote, self._store = remote, store
        self._folder = store.cell(cell.label, cell.seed)
        self._name = self._folder.relative_to(store.folder).as_posix()
        self._label, self._seed = cell.label, cell.seed
        self._checkpoint: str | None = None
        """name of the checkpoint that was fetched last"""
        self._journal = 0
        """size of the journal when it was fetched"""

    def send(self) -> None:
        """Send what the cell goes on from: its newest checkpoint, and the trials of its label."""
        self._remote.clear()
        paths = [self._store.label(self._label) / JOURNAL]
        if (checkpoint := checkpoints.find(self._folder / CHECKPOINTS)) is not None:
            self._checkpoint = checkpoint.path.name
            paths += [self._folder / SETTINGS, *sorted(checkpoint.path.rglob("*"))]
        for path in paths:
            if path.is_file():
                self._upload(path)

    def fetch_kept(self, kept: Kept) -> None:
        """Fetch the newest checkpoint and the trials, if they are new."""
        journal = f"{self._label}/{JOURNAL}"
        if kept.journals.get(journal, 0) != self._journal and self._download(journal, self._store.folder / journal):
            self._journal = kept.journals[journal]
        newest = kept.checkpoints.get(self._name)
        if newest is not None and newest != self._checkpoint and self._fetch_checkpoint(newest):
            self._checkpoint = newest

    def fetch_result(self) -> None:
        """Fetch all other files of a cell that has ended, if it has a result."""
        names = self._remote.files(self._name)
        if f"{self._name}/{RESULT}" not in names:
            return
        kept = [name for name in names if name.startswith(f"{self._name}/{CHECKPOINTS}/")]
        others = [name for name in names if name not in kept]
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".", suffix=".new") as aside:
            for name in others:
                if not self._download(name, Path(aside) / Path(name).relative_to(self._name)):
                    return
            sync(Path(aside))
            for path in sorted(Path(aside).iterdir(), key=lambda path: path.name == RESULT):
                remove(self._folder / path.name)
                os.replace(path, self._folder / path.name)
        if not kept:
            self._store.remove_checkpoints(self._label, self._seed)

    def _fetch_checkpoint(self, name: str) -> bool:
        """Fetch a checkpoint in place of all others; return whether it was still there."""
        remote, local = f"{self._name}/{CHECKPOINTS}/{name}", self._folder / CHECKPOINTS
        settings = self._remote.read(f"{self._name}/{SETTINGS}", 0)
        if settings is None:
            return False
        if not (self._folder / SETTINGS).is_file() or (self._folder / SETTINGS).read_bytes() != settings:
            remove(local)  # these checkpoints are of another training
            local.mkdir(parents=True)
            self._write_aside(self._folder / SETTINGS, iter([settings]))
        with suppress(FileNotFoundError), new_folder(local / name) as new:
            for file in self._remote.files(remote):
                if not self._download(file, new / Path(file).relative_to(remote)):
                    raise FileNotFoundError(file)
        found = checkpoints.find(local)  # this also compares the digests of all files
        if found is None or found.path != local / name:
            return False
        checkpoints.keep_newest(local, 1)
        return True

    def _download(self, name: str, path: Path) -> bool:
        """Write a file of the node to a path; return whether it was still there."""
        if not stays_inside(name):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self._write_aside(path, self._parts(name))
            return True
        return False

    def _parts(self, name: str) -> Iterator[bytes]:
        start = 0
        while (part := self._remote.read(name, start)) != b"":
            if part is None:
                raise FileNotFoundError(name)
            yield part
            start += len(part)

    def _write_aside(self, path: Path, parts: Iterator[bytes]) -> None:
        new = temporary_path(path)
        try:
            with new.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)

    def _upload(self, path: Path) -> None:
        name = path.relative_to(self._store.folder).as_posix()
        with path.open("rb") as file:
            for start in range(0, max(1, path.stat().st_size), PART_BYTES):
                self._remote.write(name, start, file.read(PART_BYTES))


def _inside(folder: Path, name: str) -> Path:
    if not stays_inside(name):
        raise ValueError(f"{name} is outside of the folder")
    return folder / name


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".new")
