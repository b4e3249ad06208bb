"""Stop code that comes with a model or a recipe before it takes too much time or memory."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = Path("/proc/self/statm")


class TooLongError(BaseException):
    """The error for code that ran for too long; no ``except Exception`` in that code catches it."""


@contextmanager
def stopped_after(seconds: float, *, waiting: bool = False) -> Iterator[None]:
    """Raise TooLongError in a ``with`` block that takes too long.

    Nothing is stopped on Windows, outside the main thread, and in code in C that does not look for signals.

    Args:
        seconds: the limit.
        waiting: count the time on the clock, and not only that of the processor. A process that the user has suspended
            would then seem to take long.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    timer, number = (signal.ITIMER_REAL, signal.SIGALRM) if waiting else (signal.ITIMER_PROF, signal.SIGPROF)

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(number, stop)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)


@contextmanager
def limited_memory(more_bytes: int) -> Iterator[None]:
    """Raise MemoryError in a ``with`` block that makes the process larger by more than some bytes; only on Linux."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(MEMORY.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + more_bytes
    if soft != resource.RLIM_INFINITY and soft < limit:  # the user's own limit is lower
        yield
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (OSError, ValueError):  # the system does not allow it
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
