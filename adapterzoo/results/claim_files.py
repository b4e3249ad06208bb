"""Read the files by which workers claim the cells of an output folder that they share.

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
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from adapterzoo.files import create_once, read_text
from adapterzoo.machine.processes import process_started
from adapterzoo.results.result import RESULT

CLAIMS = ".claims"
THREADS = "threads"
"""file with the number of threads of each cell that the first worker has chosen"""
PATIENCE = "patience"
MAX_BYTES = 2**16
# A worker on another machine counts as alive for so long after its last sign of life, unless it was told to give them
# less often. Network file systems may show the time of a file as it was up to a minute ago.
PATIENCE_SECONDS = 180.0
WRITING_SECONDS = 5.0  # time within which a worker writes a file that it has just created

CellKey = tuple[str, int]
"""label and seed of a cell"""


class ClaimFile(NamedTuple):
    """A file by which a worker has claimed a cell."""

    number: int
    changed: int
    """when the file was changed, in nanoseconds"""


def claim_path(folder: Path, cell: CellKey, number: int) -> Path:
    """Return the path of a claim of a cell."""
    return folder / f"{cell[0]}.seed-{cell[1]}.{number}"


def is_overtaken(claim: Path) -> bool:
    """Tell whether another worker has the cell of a claim, or has done it: claims are removed when all are done."""
    name, _, number = claim.name.rpartition(".")
    return not claim.exists() or claim.with_name(f"{name}.{int(number) + 1}").exists()


def live_claim(folder: Path) -> Path | None:
    """Return the claim of a worker that is doing a cell of an output folder; None if there is none.

    One of a worker on another machine counts if it was renewed within PATIENCE_SECONDS, or within its own patience.
    """
    claims = folder / CLAIMS
    if not claims.is_dir():
        return None
    probe = claims / ".now"
    probe.touch()  # so that both times are from the clock of the file system
    now = probe.stat().st_mtime
    probe.unlink()
    for cell, claim in claims_in(claims).items():
        path = claim_path(claims, cell, claim.number)
        done = (folder / cell[0] / f"seed-{cell[1]}" / RESULT).exists()
        owner = owner_of(path)
        alive = now - claim.changed / 1e9 < max(PATIENCE_SECONDS, patience_of(owner))
        if not done and alive and not has_ended(owner):
            return path
    return None


def remove_claims(folder: Path) -> None:
    """Remove all claims of an output folder whose cells are done, or whose workers have ended."""
    shutil.rmtree(folder / CLAIMS, ignore_errors=True)


def chosen_threads(folder: Path) -> int | None:
    """Return the number of threads that workers have chosen for each cell of an output folder; None if none has."""
    with suppress(OSError, ValueError):
        return int(read_text(folder / CLAIMS / THREADS, MAX_BYTES))
    return None


def claims_in(folder: Path, without: Container[CellKey] = ()) -> dict[CellKey, ClaimFile]:
    """Return cell -> its claim with the highest number, without some cells."""
    numbers: dict[CellKey, int] = {}
    try:
        names = os.listdir(folder)
    except OSError:  # nothing was claimed yet
        return {}
    for name in names:
        cell, _, number = name.rpartition(".")
        label, separator, seed = cell.rpartition(".seed-")
        if separator and number.isdecimal() and seed.isdecimal() and (key := (label, int(seed))) not in without:
            numbers[key] = max(int(number), numbers.get(key, 0))
    found = {}
    for key, highest in numbers.items():
        with suppress(OSError):  # it was removed just now
            found[key] = ClaimFile(highest, claim_path(folder, key, highest).stat().st_mtime_ns)
    return found


class ClaimFolder:
    """The files of the claims in an output folder, which one worker reads and writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CLAIMS
        self._owners: dict[Path, Any] = {}
        """file of a claim -> its owner"""

    def find(self, without: Container[CellKey] = ()) -> dict[CellKey, ClaimFile] | None:
        """Return cell -> its claim with the highest number, without some cells; None if there is no folder of claims.

        There is none before the first claim, and after all cells are done.
        """
        found = claims_in(self._folder, without)
        return found if found or self._folder.is_dir() else None

    def create(self, cell: CellKey, number: int, patience: float = PATIENCE_SECONDS) -> bool:
        """Create a claim for this process; return whether no other worker was faster.

        Args:
            cell: the cell.
            number: number of the claim.
            patience: seconds within which this process renews it.
        """
        self._folder.mkdir(exist_ok=True)
        return create_once(self.path(cell, number), json.dumps({**this_process(), PATIENCE: patience}))

    def changed(self, cell: CellKey, number: int) -> int | None:
        """Return when a claim was changed, in nanoseconds; None if it is gone."""
        try:
            return self.path(cell, number).stat().st_mtime_ns
        except OSError:
            return None

    def renew(self, cell: CellKey, number: int) -> None:
        """Give a sign of life of the owner of a claim."""
        with suppress(OSError):  # the file system may be away for a while
            os.utime(self.path(cell, number))

    def remove(self, cell: CellKey, number: int) -> None:
        """Remove a claim."""
        with suppress(OSError):
            self.path(cell, number).unlink()

    def is_overtaken(self, cell: CellKey, number: int) -> bool:
        """Tell whether another worker has the cell of a claim."""
        return is_overtaken(self.path(cell, number))

    def owner_has_ended(self, cell: CellKey, number: int) -> bool:
        """Tell whether a claim is of a process of this machine that has ended."""
        return has_ended(self._owner(cell, number))

    def patience(self, cell: CellKey, number: int) -> float:
        """Return the seconds within which the owner of a claim renews it; 0 if that is not known."""
        return patience_of(self._owner(cell, number))

    def _owner(self, cell: CellKey, number: int) -> Any:
        path = self.path(cell, number)
        if path not in self._owners and (owner := owner_of(path)) is not None:
            self._owners[path] = owner
        return self._owners.get(path)

    def agreed(self, name: str, text: str) -> str:
        """Return the text of a file, which this call creates with a text if there is none.

        On a file system without links, the file may be there before its text; without text it stays if its worker died.
        """
        self._folder.mkdir(exist_ok=True)
        path, end = self._folder / name, time.monotonic() + WRITING_SECONDS
        create_once(path, text)
        while not (found := path.read_text(encoding="ascii")) and time.monotonic() < end:
            time.sleep(0.05)
        return found or text

    def is_first(self, name: str) -> bool:
        """Tell whether this worker is the first to ask for a name, and there still is a folder of claims."""
        with suppress(OSError):
            return create_once(self._folder / name, "")
        return False

    def path(self, cell: CellKey, number: int) -> Path:
        """Return the path of a claim."""
        return claim_path(self._folder, cell, number)


def this_process() -> dict[str, Any]:
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


def owner_of(path: Path) -> Any:
    """Return the owner that a claim names; None if it cannot be read."""
    try:
        return json.loads(read_text(path, MAX_BYTES))
    except (OSError, ValueError, RecursionError):  # it is being written, or gone
        return None


def patience_of(owner: Any) -> float:
    """Return the seconds within which the owner of a claim renews it; 0 if it does not say that."""
    patience = owner.get(PATIENCE) if isinstance(owner, dict) else None
    return float(patience) if isinstance(patience, (int, float)) else 0.0


def has_ended(owner: Any) -> bool:
    """Tell whether the owner of a claim is a process of this machine that has ended; False if that is not known."""
    try:
        here = owner["machine"] is not None and owner["machine"] == _machine()
        return here and process_started(int(owner["process"])) != owner["started"]
    except (TypeError, KeyError, ValueError):
        return False
