"""Start the processes that do a cell together, and treat them as one: if one of them dies, all end."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adapterzoo.machine.fresh_process import DONE
from adapterzoo.machine.processes import Process, ProcessHandle, Send
from adapterzoo.machine.ranks import Rank

GRACE_SECONDS = 15.0
"""time for the other ranks to end after one has failed or is done; most have the same error, and rank 0 writes it"""
FAILED = "rank failed"

Start = Callable[[Rank], ProcessHandle]
"""starts the process of a rank"""


class RankProcesses(ProcessHandle):
    """Several processes that do one piece of work together. Rank 0 speaks for all of them."""

    def __init__(self, count: int, start: Start) -> None:
        """Start the processes."""
        self._folder = tempfile.TemporaryDirectory(prefix="adapterzoo-")
        self._ranks = [start(Rank(number, count, Path(self._folder.name) / "ranks")) for number in range(count)]
        self._lost = ""
        """why the processes were ended: which rank has died or failed, and how; empty if none has"""
        self._lost_output = ""
        self._received: list[Any] = []
        """messages of rank 0 that nobody has read yet"""
        self._failures: dict[int, str] = {}
        """number of a rank -> the error that it has reported"""
        self._done = set[int]()
        """numbers of the ranks that are done with the present piece of work"""
        self._deadline: float | None = None
        """when the ranks that still work are ended; None while all is well"""

    @property
    def _first(self) -> ProcessHandle:
        return self._ranks[0]

    def connections(self) -> list[Connection]:
        """See :meth:`ProcessHandle.connections`."""
        # Leave out processes that have ended: a connection without a sender always counts as ready.
        return [
            connection for rank in self._ranks if rank is self._first or rank.alive for connection in rank.connections()
        ]

    def messages(self) -> Iterator[Any]:
        """Yield the messages of rank 0; yield DONE only when all ranks are done."""
        self._receive()
        while self._received:
            yield self._received.pop(0)
        if len(self._done) == len(self._ranks):
            self._done.clear()
            self._deadline = None
            yield DONE

    def _receive(self) -> None:
        for number, rank in enumerate(self._ranks):
            for message in rank.messages():
                if message == DONE:
                    self._done.add(number)
                elif isinstance(message, tuple) and message[0] == FAILED:
                    self._failures[number] = message[1]
                elif number == 0:
                    self._received.append(message)

    @property
    def alive(self) -> bool:
        """Whether rank 0 is still running; if another rank has died, all are ended."""
        if not self._first.alive:
            return False
        ended = {number: rank.failure() for number, rank in enumerate(self._ranks) if number and not rank.alive}
        self._receive()  # a rank that has ended may have sent why
        for number, failure in ended.items():
            if failure is not None and number not in self._failures:
                self._end(number, failure)
                return False
        if self._deadline is None and (self._failures or 0 in self._done):
            self._deadline = time.monotonic() + GRACE_SECONDS
        if self._deadline is not None and time.monotonic() > self._deadline:
            for number, failure in self._failures.items():
                self._end(number, failure)
            self.kill()
        return self._first.alive

    def _end(self, number: int, why: str) -> None:
        """End all ranks because one of them has died or failed."""
        self._lost = self._lost or f"rank {number} of {len(self._ranks)}: {why}"
        self._lost_output = self._lost_output or self._ranks[number].output()
        self.kill()

    def wait(self) -> int:
        """See :meth:`ProcessHandle.wait`."""
        return self._first.wait()

    @property
    def process_id(self) -> int:
        """Number of the process of rank 0."""
        return self._first.process_id

    def give(self, item: Any) -> None:
        """Give all ranks their next piece of work."""
        for rank in self._ranks:
            rank.give(item)

    def failure(self) -> str | None:
        """Return why the processes that have ended failed; None if they did not fail."""
        return self._lost or self._first.failure()

    def forget_output(self) -> None:
        """See :meth:`ProcessHandle.forget_output`."""
        for rank in self._ranks:
            rank.forget_output()

    def output(self) -> str:
        """Return the end of what rank 0 has printed, and the rank that has died."""
        return self._first.output() + self._lost_output

    def ask_to_stop(self) -> None:
        """Ask rank 0 to stop; the ranks agree on the step after which they do."""
        self._first.ask_to_stop()

    def kill(self) -> None:
        """End all processes at once, and the processes that they have started."""
        for rank in self._ranks:
            rank.kill()
        self._folder.cleanup()


def forked_ranks(count: int, work: Callable[[Send], None], threads: int) -> ProcessHandle:
    """Do a piece of work in processes that are forked from this one; in one process if ``count`` is 1."""
    if count == 1:
        return Process(work, threads)
    return RankProcesses(count, lambda rank: Process(partial(_in_rank, rank, work, threads), threads))


def _in_rank(rank: Rank, work: Callable[[Send], None], threads: int, send: Send) -> None:
    # Without OMP_NUM_THREADS, accelerate would choose another number of threads.
    os.environ.update({**rank.environment(), "OMP_NUM_THREADS": str(threads)})
    work(send)
