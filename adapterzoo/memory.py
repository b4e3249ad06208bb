"""The peak memory of one cell, not of the process so far."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from pathlib import Path
from types import TracebackType

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def available() -> int:
    """Bytes that are free where models are put: on the GPU, else in the machine."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def free_memory() -> None:
    """Hand back what nothing holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class PeakMemory:
    """Measures while it is held: on a GPU what was allocated there, else what the process had in memory.

    >>> with PeakMemory() as peak:
    ...     work()
    >>> peak.bytes
    """

    bytes: int

    def __enter__(self) -> PeakMemory:
        import torch

        gc.collect()
        self._cuda = torch.cuda.is_available()
        self._sampler: _Sampler | None = None
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return self
        _trim()
        try:
            CLEAR_REFS.write_text("5")  # Linux: begin the high-water mark anew
        except OSError:
            self._sampler = _Sampler()
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        if self._cuda:
            self.bytes = torch.cuda.max_memory_allocated()
        elif self._sampler is not None:
            self.bytes = self._sampler.stop()
        else:
            (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
            self.bytes = int(line.split()[1]) * 1024


class _Sampler(threading.Thread):
    """Looks at the resident memory every 20 ms, where the system keeps no resettable peak."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss)
            if self._done.wait(0.02):
                return

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.peak


def _trim() -> None:
    """Hand back what earlier cells freed and the allocator kept, which would count as this cell's."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            return
