"""End a piece of work together with the other ranks, well or with an error, so that none waits for one that is gone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from adapterzoo.errors import AloneError, failure_reason
from adapterzoo.machine import ranks, stopping
from adapterzoo.machine.stopping import StoppedError

SECONDS_TO_BE_ENDED = 60.0
"""how long a rank with an error waits for the others, or for being ended by whoever has started it"""
LOOK_SECONDS = 0.1
LOST = (
    "connection closed by peer", "connection reset by peer", "broken pipe", "socketpollconnect", "gloo",
    "connection was likely closed", "ncclremoteerror",
)  # fmt: skip
"""words in the errors of a rank that waits for one that has died: gloo's, those of torch's store, and NCCL's"""

_connection: Any = None
"""connection of all ranks for :func:`settle` alone, so that nothing else waits there"""


def prepare() -> None:
    """Make the connection of :func:`settle`; all ranks have to call it."""
    global _connection
    if ranks.count() > 1 and _connection is None:
        _connection = sys.modules["torch.distributed"].new_group(backend="gloo", timeout=ranks.PATIENCE)


def settle(failure: str = "") -> None:
    """Wait until all ranks have ended a cell, well or with an error.

    Args:
        failure: why it failed on this rank; empty if it went well. After an error, another rank may wait for ever.

    Raises:
        AloneError: it failed on this rank, and another one does not come in time.
        RuntimeError: it went well on this rank, and another one does not come in time.
    """
    if ranks.count() == 1:
        return
    import torch
    from torch import distributed

    message = torch.zeros(1)
    send, receive = (partial(work, message, group=_connection) for work in (distributed.isend, distributed.irecv))
    patience = timedelta(seconds=SECONDS_TO_BE_ENDED) if failure else ranks.PATIENCE
    others = range(1, ranks.count()) if ranks.number() == 0 else [0]
    # Rank 0 hears from all others, and then answers them. A barrier of torch would let those wait for as long as any
    # collective may take.
    try:
        for exchange in (receive, send) if ranks.number() == 0 else (send, receive):
            for other in others:
                exchange(other).wait(patience)
    except RuntimeError as error:
        if failure:
            raise AloneError(failure) from error
        raise


@contextmanager
def failing_together() -> Iterator[None]:
    """Let an error leave a ``with`` block only if all ranks leave it, so that whoever catches it may go on with them.

    Raises:
        AloneError: this rank has an error, and another one is still in the block, where it waits for this rank.
    """
    prepare()
    try:
        yield
    except (Exception, SystemExit) as error:
        wait_if_lost(error)
        settle(failure_reason(error))
        raise
    settle()


def says_lost(error: BaseException) -> bool:
    """Tell whether an error only says that another rank has died."""
    return any(words in str(error).lower() for words in LOST)


def wait_if_lost(error: BaseException) -> None:
    """Wait to be ended after an error that only says that another rank has died: whoever ends this rank knows why.

    Raises:
        StoppedError: it was asked to stop meanwhile, as a launcher asks.
    """
    begun = time.monotonic()
    while ranks.count() > 1 and says_lost(error):
        if stopping.asked():
            raise StoppedError from error
        if time.monotonic() - begun > SECONDS_TO_BE_ENDED:
            return
        time.sleep(LOOK_SECONDS)
