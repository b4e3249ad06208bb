"""Claim cells of an output folder that several workers share, so that no cell is done twice.

A claim is a file ``.claims/<label>.seed-<n>.<number>``. A file of a name can be created only once, also on a network
file system, and the highest number counts. The owner renews the file's time as long as it lives. A claim that is not
renewed for too long may be followed by one with the next number: then its first owner has lost the cell. Times are only
compared with earlier times of the same file, so that the clocks of the machines need not agree.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from adapterzoo.files import create_once, read_text
from adapterzoo.machine.processes import process_started

CLAIMS = ".claims"
THREADS = "threads"
# Network file systems may show the time of a file as it was up to a minute ago.
PATIENCE_SECONDS = 180.0
MAX_BYTES = 2**16
RENEWALS = 6  # how many times a claim is renewed while others wait for a sign of life
LOOK_SECONDS = 1.0  # time between two looks into the folder

CellKey = tuple[str, int]
"""label and seed of a cell"""


class _Claim(NamedTuple):
    number: int
    changed: int
    """when the file was changed, in nanoseconds"""


class Claims:
    """The claims of a process that has the output folder for itself, so that every cell is its own."""

    shared = False
    """whether other workers do cells of the folder too"""
    waits = False
    """whether this worker waits for the cells of the others, and does those of dead ones"""

    def take(self, cell: CellKey) -> bool:
        """Claim a cell; return whether this worker has it now."""
        return True

    def free(self, cell: CellKey) -> bool:
        """Tell whether a cell can be claimed: nobody has claimed it, or its owner is dead."""
        return True

    def others(self) -> set[CellKey]:
        """Return the cells that other workers have claimed, without those of dead ones."""
        return set()

    def lost(self) -> set[CellKey]:
        """Return the cells of this worker that another one has claimed since, because it saw no sign of life."""
        return set()

    def claim_of(self, cell: CellKey) -> Path | None:
        """Return the file of this worker's claim of a cell; None if no claims are needed."""
        return None

    def forget(self, cell: CellKey) -> None:
        """Renew the claim of a cell no longer: its result is there, or the cell is lost."""

    def agreed_threads(self, number: int) -> int:
        """Return the number of threads of each cell that the first worker has chosen."""
        return number

    def close(self) -> None:
        """Give back all cells that this worker has claimed and not done."""


class SharedClaims(Claims):
    """The claims in an output folder that workers share, as one of them sees them."""

    shared = True

    def __init__(self, folder: Path, patience: float = PATIENCE_SECONDS, waits: bool = True) -> None:
        """Look into an output folder.

        Args:
            folder: the output folder.
            patience: seconds without a sign of life after which the cell of another worker may be claimed.
            waits: whether this worker waits for the cells of the others, and does those of dead ones.
        """
        self.waits = waits
        self._folder = folder / CLAIMS
        self._patience = patience
        self._own: dict[CellKey, int] = {}
        """cell -> number of this worker's claim"""
        self._found: dict[CellKey, _Claim] = {}
        """cell -> its claim with the highest number"""
        self._unchanged: dict[CellKey, tuple[_Claim, float]] = {}
        """cell -> its claim, and since when it was seen unchanged"""
        self._owners: dict[Path, Any] = {}
        """file of a claim -> its owner"""
        self._looked = -LOOK_SECONDS
        self._closing = threading.Event()
        self._renewing: threading.Thread | None = None

    def take(self, cell: CellKey) -> bool:
        """See :meth:`Claims.take`."""
        if not self.free(cell):
            return False
        number = self._found[cell].number + 1 if cell in self._found else 1
        self._folder.mkdir(exist_ok=True)
        self._looked = -LOOK_SECONDS
        if not create_once(self._path(cell, number), json.dumps(_this_process())):
            return False  # another worker was faster
        self._own[cell] = number
        if self._renewing is None:
            self._renewing = threading.Thread(target=self._renew, daemon=True)
            self._renewing.start()
        return True

    def free(self, cell: CellKey) -> bool:
        """See :meth:`Claims.free`."""
        self._look()
        claim = self._found.get(cell)
        if cell in self._own:
            return False
        if claim is None:
            return True
        _, since = self._unchanged[cell]
        return time.monotonic() - since > self._patience or self._is_dead(self._path(cell, claim.number))

    def others(self) -> set[CellKey]:
        """See :meth:`Claims.others`."""
        self._look()
        return {cell for cell in self._found if cell not in self._own and not self.free(cell)}

    def lost(self) -> set[CellKey]:
        """See :meth:`Claims.lost`."""
        self._look()
        return {
            cell for cell, number in self._own.items() if (found := self._found.get(cell)) and found.number > number
        }

    def claim_of(self, cell: CellKey) -> Path | None:
        """See :meth:`Claims.claim_of`."""
        return self._path(cell, self._own[cell]) if cell in self._own else None

    def forget(self, cell: CellKey) -> None:
        """See :meth:`Claims.forget`.

        The file stays, so that a worker that does not see the result yet does not begin with the cell.
        """
        self._own.pop(cell, None)

    def agreed_threads(self, number: int) -> int:
        """See :meth:`Claims.agreed_threads`."""
        self._folder.mkdir(exist_ok=True)
        create_once(self._folder / THREADS, str(number))
        return int((self._folder / THREADS).read_text(encoding="ascii"))

    def close(self) -> None:
        """See :meth:`Claims.close`."""
        self._closing.set()
        if self._renewing is not None:
            self._renewing.join()
        for cell in set(self._own) - self.lost():
            with suppress(OSError):
                self._path(cell, self._own[cell]).unlink()
        self._own.clear()

    def _path(self, cell: CellKey, number: int) -> Path:
        return self._folder / f"{cell[0]}.seed-{cell[1]}.{number}"

    def _is_dead(self, path: Path) -> bool:
        """Tell whether a claim is of a process of this machine that has ended."""
        if path not in self._owners and (owner := _owner(path)) is not None:
            self._owners[path] = owner
        return _has_ended(self._owners.get(path))

    def _renew(self) -> None:
        while not self._closing.wait(self._patience / RENEWALS):
            for cell, number in list(self._own.items()):
                with suppress(OSError):  # the file system may be away for a while
                    os.utime(self._path(cell, number))

    def _look(self) -> None:
        """Read the folder again, unless that was done just now."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        self._found = _claims_in(self._folder)
        for cell, claim in self._found.items():
            if self._unchanged.get(cell, (None, 0.0))[0] != claim:
                self._unchanged[cell] = claim, now


def is_overtaken(claim: Path) -> bool:
    """Tell whether another worker has the cell of a claim."""
    name, _, number = claim.name.rpartition(".")
    return claim.with_name(f"{name}.{int(number) + 1}").exists()


def live_claim(folder: Path) -> Path | None:
    """Return the claim of a worker that is doing a cell of an output folder; None if there is none.

    One of a worker on another machine counts if it was renewed within PATIENCE_SECONDS.
    """
    claims = folder / CLAIMS
    if not claims.is_dir():
        return None
    probe = claims / ".now"
    probe.touch()  # so that both times are from the clock of the file system
    now = probe.stat().st_mtime
    probe.unlink()
    for cell, claim in _claims_in(claims).items():
        path = claims / f"{cell[0]}.seed-{cell[1]}.{claim.number}"
        done = (folder / cell[0] / f"seed-{cell[1]}" / "result.json").exists()
        if not done and now - claim.changed / 1e9 < PATIENCE_SECONDS and not _has_ended(_owner(path)):
            return path
    return None


def remove_claims(folder: Path) -> None:
    """Remove all claims of an output folder whose cells are done, or whose workers have ended."""
    shutil.rmtree(folder / CLAIMS, ignore_errors=True)


def _claims_in(folder: Path) -> dict[CellKey, _Claim]:
    """Return cell -> its claim with the highest number."""
    found: dict[CellKey, _Claim] = {}
    try:
        files = list(os.scandir(folder))
    except OSError:  # nothing was claimed yet
        return found
    for file in files:
        cell, _, number = file.name.rpartition(".")
        label, separator, seed = cell.rpartition(".seed-")
        if not (separator and number.isdecimal() and seed.isdecimal()):
            continue
        with suppress(OSError):  # it was removed just now
            claim = _Claim(int(number), file.stat(follow_symlinks=False).st_mtime_ns)
            key = (label, int(seed))
            found[key] = max(claim, found.get(key, claim))
    return found


def _this_process() -> dict[str, Any]:
    """Describe this process, so that workers on the same machine know when it has ended."""
    process = os.getpid()
    return {"machine": _machine(), "host": platform.node(), "process": process, "started": process_started(process)}


def _machine() -> str | None:
    """Return what all processes have in common that can see each other; None if that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # two containers have process numbers of their own
    except OSError:
        return None


def _owner(path: Path) -> Any:
    """Return the owner that a claim names; None if it cannot be read."""
    try:
        return json.loads(read_text(path, MAX_BYTES))
    except (OSError, ValueError, RecursionError):  # it is being written, or gone
        return None


def _has_ended(owner: Any) -> bool:
    """Tell whether the owner of a claim is a process of this machine that has ended; False if that is not known."""
    try:
        here = owner["machine"] is not None and owner["machine"] == _machine()
        return here and process_started(int(owner["process"])) != owner["started"]
    except (TypeError, KeyError, ValueError):
        return False
