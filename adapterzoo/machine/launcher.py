"""Tell the launcher that has started this process, such as torchrun, why it fails, and find the ranks it has lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from adapterzoo.files import write_atomically
from adapterzoo.machine import ranks
from adapterzoo.terminal import safe

REASON_FILE = "TORCHELASTIC_ERROR_FILE"
"""variable in which torchrun names the file whose content it prints if this process fails"""


def report_failure(reason: str) -> None:
    """Let the launcher print why this process fails, as the end of its own report; do nothing without a launcher."""
    file = Path(os.environ.get(REASON_FILE) or os.devnull)
    if ranks.launched() == 1 or file == Path(os.devnull) or not file.parent.is_dir():
        return
    # The form is that of torch.distributed.elastic.multiprocessing.errors, with the reason in the place of a traceback.
    text = safe(reason).plain
    report = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
    try:
        write_atomically(file, json.dumps({"message": report}))
    except OSError:  # then the launcher only says that this process has failed
        return


def lost() -> list[int]:
    """Return the numbers of the ranks of this machine whose processes have ended; none if that cannot be known."""
    try:
        own, place, count = (int(os.environ[name]) for name in (ranks.NUMBER, ranks.ON_MACHINE, ranks.COUNT_ON_MACHINE))
    except (KeyError, ValueError):
        return []
    living = _living()
    if own not in living:  # something stands between the launcher and its processes
        return []
    first = own - place  # the ranks of a machine have consecutive numbers
    return [number for number in range(first, first + count) if number not in living]


def _living() -> set[int]:
    """Return the numbers of the ranks whose processes live, of those that this process's parent has started."""
    import psutil

    numbers = set[int]()
    try:
        for process in psutil.Process(os.getppid()).children():
            if process.status() != psutil.STATUS_ZOMBIE:
                numbers.add(int(process.environ().get(ranks.NUMBER, -1)))
    except (psutil.Error, OSError, ValueError):
        return set()
    return numbers


def naming_lost(
    say: Callable[[str], None], *, unless_lost: Callable[[str], None] | None = None
) -> Callable[[str], None]:
    """Return a function that says a message, or, once and instead of all messages, which rank was lost.

    When a rank has died, a launcher asks the others to stop by the signal that a user sends too.

    Args:
        say: says which rank was lost.
        unless_lost: says the message if no rank was lost; the same function if None.
    """
    named = False

    def say_or_name(message: str) -> None:
        nonlocal named
        numbers = lost() if ranks.launched() > 1 else []
        if not numbers:
            (unless_lost or say)(message)
        elif not named:
            named = True
            say(f"stopping, because rank {numbers[0]} of {ranks.launched()} was lost: its process has ended by itself.")

    return say_or_name


def say_as_first_living(message: str) -> None:
    """Print a message to stderr if all lower ranks were lost; otherwise the lowest that lives prints it."""
    from adapterzoo.terminal import stderr

    own = int(os.environ[ranks.NUMBER])
    if set(range(own)) <= set(lost()):
        stderr().print(safe(message), soft_wrap=True)
