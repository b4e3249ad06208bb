"""Measure how many seconds each activity takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of named activities.

    >>> watch = Stopwatch()
    >>> with watch("training"):
    ...     train()
    >>> watch.seconds
    {'training': 12.3}
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of a ``with`` block to the seconds of an activity."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - begun)

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere to the seconds of an activity."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
