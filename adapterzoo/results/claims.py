"""Claim cells of an output folder that several workers share, so that no cell is done twice."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from adapterzoo.results.claim_files import PATIENCE_SECONDS, THREADS, CellKey, ClaimFile, ClaimFolder

RENEWALS = 6  # how many times a claim is renewed while others wait for a sign of life
LOOK_SECONDS = 1.0  # time between two looks into the folder
LOOK_SHARE = 0.02  # largest share of its time that a worker spends on looking: a slow folder is read less often


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

    def lost(self, *, at_once: bool = False) -> set[CellKey]:
        """Return the cells of this worker that another one has claimed since, because it saw no sign of life.

        Args:
            at_once: look it up now. Otherwise that is not done more often than claims are renewed, because an owner
                that renews them loses none.
        """
        return set()

    @property
    def looks(self) -> int:
        """Number of times that the folder was read; while it is the same, nothing new is known of other workers."""
        return 0

    @property
    def gone(self) -> bool:
        """Whether no claim exists, because none was made yet or because all cells are done."""
        return False

    def claim_of(self, cell: CellKey) -> Path | None:
        """Return the file of this worker's claim of a cell; None if no claims are needed."""
        return None

    def forget(self, cell: CellKey) -> None:
        """Renew the claim of a cell no longer, because the cell is lost."""

    def finish(self, cell: CellKey) -> None:
        """Note that the result of a cell is there, whoever has claimed it."""

    def agreed_threads(self, number: int) -> int:
        """Return the number of threads of each cell that the first worker has chosen."""
        return number

    def close(self) -> None:
        """Give back all cells that this worker has claimed and not done."""


class SharedClaims(Claims):
    """The claims in an output folder that workers share, as one of them sees them."""

    shared = True

    def __init__(self, files: ClaimFolder, patience: float = PATIENCE_SECONDS, waits: bool = True) -> None:
        """Look into an output folder.

        Args:
            files: the claims of the output folder.
            patience: seconds without a sign of life after which the cell of another worker may be claimed, unless that
                worker gives signs less often, because it was told to be more patient.
            waits: whether this worker waits for the cells of the others, and does those of dead ones.
        """
        self.waits = waits
        self._files = files
        self._patience = patience
        self._own: dict[CellKey, int] = {}
        """cell -> number of this worker's claim"""
        self._found: dict[CellKey, ClaimFile] = {}
        """cell that is not done -> its claim with the highest number"""
        self._unchanged: dict[CellKey, tuple[ClaimFile, float]] = {}
        """cell -> its claim, and since when it was seen unchanged"""
        self._done = set[CellKey]()
        self._others: set[CellKey] | None = None
        """what :meth:`others` returned; None if that may have changed"""
        self._looks, self._gone = 0, False
        self._gone_since: float | None = None
        """since when the claims that were there are gone"""
        self._next_look = self._next_check = 0.0
        self._closing = threading.Event()
        self._renewing: threading.Thread | None = None

    @property
    def looks(self) -> int:
        """See :meth:`Claims.looks`."""
        self._look()
        return self._looks

    @property
    def gone(self) -> bool:
        """See :meth:`Claims.gone`."""
        return self._gone

    def take(self, cell: CellKey) -> bool:
        """See :meth:`Claims.take`."""
        if not self.free(cell):
            return False
        number, before, self._others = 1, self._found.get(cell), None
        if before is not None:
            number = before.number + 1
            changed = self._files.changed(cell, before.number)
            if changed is not None and changed != before.changed:  # its owner lives, and was only late
                self._note(cell, before._replace(changed=changed))
                return False
        if not self._files.create(cell, number, self._patience):  # another worker was faster
            self._note(cell, ClaimFile(number, 0))
            return False
        self._own[cell] = number
        if self._renewing is None:
            self._renewing = threading.Thread(target=self._renew, daemon=True)
            self._renewing.start()
        return True

    def free(self, cell: CellKey) -> bool:
        """See :meth:`Claims.free`."""
        self._look()
        claim = self._found.get(cell)
        if cell in self._own or cell in self._done:
            return False
        if claim is None:
            # If all claims are gone, all cells are done, even if not every result can be seen yet.
            return self._gone_since is None or time.monotonic() - self._gone_since > self._patience
        _, since = self._unchanged[cell]
        if self._files.owner_has_ended(cell, claim.number):
            return True
        return time.monotonic() - since > max(self._patience, self._files.patience(cell, claim.number))

    def others(self) -> set[CellKey]:
        """See :meth:`Claims.others`."""
        self._look()
        if self._others is None:
            self._others = {cell for cell in self._found if cell not in self._own and not self.free(cell)}
        return self._others

    def lost(self, *, at_once: bool = False) -> set[CellKey]:
        """See :meth:`Claims.lost`."""
        now = time.monotonic()
        if now < self._next_check and not at_once:
            return set()
        self._next_check = now + self._patience / RENEWALS
        return {cell for cell, number in self._own.items() if self._files.is_overtaken(cell, number)}

    def claim_of(self, cell: CellKey) -> Path | None:
        """See :meth:`Claims.claim_of`."""
        return self._files.path(cell, self._own[cell]) if cell in self._own else None

    def forget(self, cell: CellKey) -> None:
        """See :meth:`Claims.forget`."""
        self._own.pop(cell, None)
        self._others = None

    def finish(self, cell: CellKey) -> None:
        """See :meth:`Claims.finish`.

        The file stays, so that a worker that does not see the result yet does not begin with the cell.
        """
        self.forget(cell)
        self._found.pop(cell, None)
        self._unchanged.pop(cell, None)
        self._done.add(cell)

    def agreed_threads(self, number: int) -> int:
        """See :meth:`Claims.agreed_threads`."""
        return int(self._files.agreed(THREADS, str(number)))

    def close(self) -> None:
        """See :meth:`Claims.close`."""
        self._closing.set()
        if self._renewing is not None:
            self._renewing.join()
        for cell, number in self._own.items():
            if not self._files.is_overtaken(cell, number):
                self._files.remove(cell, number)
        self._own.clear()

    def _renew(self) -> None:
        while not self._closing.wait(self._patience / RENEWALS):
            for cell, number in list(self._own.items()):
                self._files.renew(cell, number)

    def _look(self) -> None:
        """Read the folder again, unless that was done just now."""
        begun = time.monotonic()
        if begun < self._next_look:
            return
        found = self._files.find(self._done)
        now = time.monotonic()
        longest = max(LOOK_SECONDS, self._patience / RENEWALS)
        self._next_look = now + min(max(LOOK_SECONDS, (now - begun) / LOOK_SHARE), longest)
        seen = self._looks and not self._gone
        self._looks, self._gone, self._others = self._looks + 1, found is None, None
        if not self._gone:
            self._gone_since = None
        elif seen:
            self._gone_since = now
        self._found = found or {}
        for cell, claim in self._found.items():
            self._note(cell, claim, now)

    def _note(self, cell: CellKey, claim: ClaimFile, now: float | None = None) -> None:
        """Note a claim, and since when it was seen unchanged."""
        self._found[cell] = claim
        if self._unchanged.get(cell, (None, 0.0))[0] != claim:
            self._unchanged[cell] = claim, time.monotonic() if now is None else now
