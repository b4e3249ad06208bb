"""How a cell tells what it does: to nobody, or to the process that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapterzoo.errors import AdapterzooError
from adapterzoo.results.result import Tuning


class Watch:
    """Told how one cell goes. Says nothing itself."""

    def phase(self, name: str) -> None:
        """Take in that the cell does something else now."""

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """Take in that a training step is done; ``tokens`` have been seen so far."""

    def say(self, message: str) -> None:
        """Take in something worth knowing, apart from progress."""

    def tuned(self, found: Tuning | AdapterzooError) -> None:
        """Take in which settings were chosen, or why none could be."""


class Sender(Watch):
    """Sends what it is told to another process, which calls the same methods of its own."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send

    def phase(self, name: str) -> None:
        """See :meth:`Watch.phase`."""
        self._send(("phase", name))

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """See :meth:`Watch.step`."""
        self._send(("step", step, steps, loss, tokens))

    def say(self, message: str) -> None:
        """See :meth:`Watch.say`."""
        self._send(("say", message))

    def tuned(self, found: Tuning | AdapterzooError) -> None:
        """See :meth:`Watch.tuned`."""
        self._send(("tuned", found))
