"""Stop a run at the user's wish: the first Ctrl-C lets each cell finish its step and save it, the second ends all."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

MESSAGE = "stopping: each cell that is training finishes its step and saves it. Ctrl-C again stops at once."
_asked = 0


class StoppedError(BaseException):
    """A training was stopped at the user's wish, after it has saved its last step. It is no failure of the cell."""


def asked() -> int:
    """Return the number of the signal that asked for a stop; 0 if none did."""
    return _asked


def ask(number: int, frame: FrameType | None = None) -> None:
    """Note that a stop was asked for; this is a signal handler."""
    global _asked
    _asked = number


@contextmanager
def gently(say: Callable[[str], None]) -> Iterator[None]:
    """Let the first SIGINT (Ctrl-C) or SIGTERM only ask for a stop; another one ends the block at once.

    Args:
        say: is called with a message to the user after the first signal.

    Raises:
        KeyboardInterrupt: a stop was asked for; its argument is the number of the signal.
    """
    global _asked

    def handle(number: int, frame: FrameType | None) -> None:
        if asked():
            raise KeyboardInterrupt(number)
        ask(number)
        try:
            say(MESSAGE)
        except (RuntimeError, OSError):
            # This thread was printing when the signal came, and Python does not let it print in between; or the
            # terminal is gone. Neither may end the run before its cells have saved their steps.
            with suppress(OSError):
                os.write(2, f"{MESSAGE}\n".encode())

    _asked, before = 0, {}
    # Only the main thread may set handlers. A signal that this program's caller handles or ignores is left to it.
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == usual:
                before[number] = signal.signal(number, handle)
    try:
        yield
        if asked():
            raise KeyboardInterrupt(asked())
    except StoppedError:
        raise KeyboardInterrupt(asked()) from None
    finally:
        _asked = 0
        for number, handler in before.items():
            signal.signal(number, handler)
