"""Give each loaded model a folder of its own for offloaded weights: the next one would overwrite those of the first."""

from __future__ import annotations

import os
import weakref
from itertools import count
from pathlib import Path


class OffloadFolder:
    """A folder that no other model uses, of this process or another one, as long as this object exists."""

    path: Path

    def __init__(self, folder: Path) -> None:
        """Take a folder; if another model uses it, take a folder in it: ``2``, ``3`` and so on."""
        for number in count(1):
            self.path = folder if number == 1 else folder / str(number)
            self.path.mkdir(parents=True, exist_ok=True)
            if self._lock():
                return

    def _lock(self) -> bool:
        """Lock the folder; return False if it is locked already."""
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # some file systems have no locks
            os.close(descriptor)
            return True
        weakref.finalize(self, os.close, descriptor)
        return True
