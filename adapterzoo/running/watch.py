"""Receive the progress of one cell, and ignore it or send it to the process that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapterzoo.errors import AdapterzooError
from adapterzoo.results.result import Tuning


class Watch:
    """Receives the progress of one cell and ignores it; subclasses pass it on."""

    def phase(self, name: str) -> None:
        """Note that the cell begins its next phase, training or measuring for instance."""

    def step(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """Note that a training step is done; ``tokens`` is the number of tokens seen so far."""

    def say(self, message: str) -> None:
        """Pass on a message that is not about progress."""

    def tuned(self, tuning: Tuning | AdapterzooError) -> None:
        """Note the result of tuning, or why it failed."""

    def disk_full(self, what: str) -> None:
        """Stop the run, because the cell could not write a file."""


class Sender(Watch):
    """A watch that sends each call to another process, which calls the same method on its own watch."""

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

    def tuned(self, tuning: Tuning | AdapterzooError) -> None:
        """See :meth:`Watch.tuned`."""
        self._send(("tuned", tuning))

    def disk_full(self, what: str) -> None:
        """See :meth:`Watch.disk_full`."""
        self._send(("disk_full", what))
