"""Claim cells of an output folder that several workers share, so that no cell is done twice."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapterzoo.files import create_once
from adapterzoo.results.claim_files import (
    CLAIMS,
    PATIENCE_SECONDS,
    CellKey,
    ClaimFile,
    claim_path,
    claims_in,
    has_ended,
    owner_of,
    this_process,
)

THREADS = "threads"
RENEWALS = 6  # how many times a claim is renewed while others wait for a sign of life
LOOK_SECONDS = 1.0  # time between two looks into the folder


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
        self._found: dict[CellKey, ClaimFile] = {}
        """cell -> its claim with the highest number"""
        self._unchanged: dict[CellKey, tuple[ClaimFile, float]] = {}
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
        if not create_once(self._path(cell, number), json.dumps(this_process())):
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
        return claim_path(self._folder, cell, number)

    def _is_dead(self, path: Path) -> bool:
        """Tell whether a claim is of a process of this machine that has ended."""
        if path not in self._owners and (owner := owner_of(path)) is not None:
            self._owners[path] = owner
        return has_ended(self._owners.get(path))

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
        self._found = claims_in(self._folder)
        for cell, claim in self._found.items():
            if self._unchanged.get(cell, (None, 0.0))[0] != claim:
                self._unchanged[cell] = claim, now
