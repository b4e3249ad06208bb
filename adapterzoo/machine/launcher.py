"""Know of the launcher that has started this process with others, such as torchrun: what it reads, and whom it lost."""

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


def tell(reason: str) -> None:
    """Let the launcher print why this process fails, as the end of its own report; without one, do nothing."""
    file = Path(os.environ.get(REASON_FILE) or os.devnull)
    if ranks.launched() == 1 or file == Path(os.devnull) or not file.parent.is_dir():
        return
    # The form is that of torch.distributed.elastic.multiprocessing.errors, with the reason in the place of a traceback.
    text = safe(reason).plain
    found = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
    try:
        write_atomically(file, json.dumps({"message": found}))
    except OSError:  # then the launcher only says that this process has failed
        return


def lost() -> list[int]:
    """Return the numbers of the ranks of this machine whose processes have ended; none if that cannot be known."""
    try:
        own, place, here = (int(os.environ[name]) for name in (ranks.NUMBER, ranks.ON_MACHINE, ranks.COUNT_ON_MACHINE))
    except (KeyError, ValueError):
        return []
    living = _living()
    if own not in living:  # something stands between the launcher and its processes
        return []
    return [number for number in range(own - place, own - place + here) if number not in living]


def _living() -> set[int]:
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
    """Return a function that says once, in the place of any message, which rank was lost, if one was.

    A launcher asks the other ranks to stop when one has died, just as a user does.

    Args:
        say: says it.
        unless_lost: says the message if no rank was lost; by default the same function.
    """

    told = False

    def said(message: str) -> None:
        nonlocal told
        numbers = lost() if ranks.launched() > 1 else []
        if not numbers:
            (unless_lost or say)(message)
        if not numbers or told:
            return
        told = True
        say(f"stopping, because rank {numbers[0]} of {ranks.launched()} was lost: its process has ended by itself.")

    return said


def say_as_first_living(message: str) -> None:
    """Print a message to stderr if rank 0, which prints otherwise, was lost, and no lower rank than this one lives."""
    from adapterzoo.terminal import stderr

    own = int(os.environ[ranks.NUMBER])
    if set(range(own)) <= set(lost()):
        stderr().print(safe(message), soft_wrap=True)
