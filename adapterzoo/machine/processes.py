"""Processes of their own for cells: whatever one breaks, changes or runs out of is gone with its process."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from adapterzoo.errors import ProcessEndedError
from adapterzoo.machine.memory import keep_freed_memory

Send = Callable[[Any], None]
TICK_SECONDS = 0.25
PR_SET_PDEATHSIG = 1  # of Linux's prctl
MAX_OUTPUT_BYTES = 20_000  # of what a process printed last


def available() -> bool:
    """Whether this process can be forked: not where CUDA or macOS's libraries would break in the child."""
    import torch

    return sys.platform == "linux" and not torch.cuda.is_available()


class Process:
    """A forked process that does one piece of work, and says how it goes.

    It begins with all that its parent has in memory, at no cost; what it changes there is its own.
    """

    def __init__(self, work: Callable[[Send], None], threads: int) -> None:
        """Begin.

        Args:
            work: is called in the new process, with a function that sends messages (anything that can be pickled).
            threads: that each parallel operation gets.
        """
        context = multiprocessing.get_context("fork")
        self._messages, theirs = context.Pipe(duplex=False)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # read after the process has ended
        self._process = context.Process(target=_main, args=(work, theirs, self._output.fileno(), threads))
        self._process.start()
        theirs.close()

    def messages(self) -> Iterator[Any]:
        """Yield what it has sent since the last time."""
        try:
            while self._messages.poll():
                yield self._messages.recv()
        except (EOFError, OSError):  # it has ended, in the middle of a message perhaps
            return

    @property
    def alive(self) -> bool:
        """Whether it is still at work."""
        return self._process.is_alive()

    def failure(self) -> str | None:
        """Return why a process that has ended came to no good end; None where it did."""
        code = self._process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            cause = " (out of memory, or killed by hand)" if -code == signal.SIGKILL else ""
            return f"its process was ended by {name}{cause}"
        return f"its process ended with exit code {code}" if code else None

    def output(self) -> str:
        """Return what it printed last."""
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - MAX_OUTPUT_BYTES))
        return self._output.read().decode(errors="replace")

    def kill(self) -> None:
        """End it at once, and the processes that it has started."""
        try:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:  # it has ended, or has no group of its own yet
            self._process.kill()
        self._process.join()


def apart(works: Sequence[Callable[[], Any]], at_once: int, each: int | None = None) -> list[Any]:
    """Call each function in a process of its own, where that can be had: what one changes is there for no other.

    Args:
        works: functions whose answers can be pickled.
        at_once: how many of them run at the same time.
        each: how many threads each of them has; by default as many as this process.

    Returns:
        Their answers, in their order. In the place of a function that raised an exception stands that exception, and
        in the place of one whose process ended without an answer, a ProcessEndedError.
    """
    if not available():
        return [_answer(work) for work in works]
    answers: list[Any] = [None] * len(works)
    waiting, running = list(range(len(works))), dict[Process, int]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number = waiting.pop(0)
                running[Process(partial(_send_answer, works[number]), each or threads())] = number
                answers[number] = ProcessEndedError("its process sent nothing")
            wait_for_any(list(running))
            for process, number in list(running.items()):
                ended = not process.alive
                for answer in process.messages():
                    answers[number] = answer
                if ended:
                    del running[process]
                    if isinstance(answers[number], ProcessEndedError) and (why := process.failure()):
                        answers[number] = ProcessEndedError(why)
    finally:
        for process in running:
            process.kill()
    return answers


def _answer(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


def _send_answer(work: Callable[[], Any], send: Send) -> None:
    send(_answer(work))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_for_any(processes: Sequence[Process]) -> None:
    """Return when a process has sent something or has ended, at the latest after TICK_SECONDS."""
    wait([found for one in processes for found in (one._messages, one._process.sentinel)], TICK_SECONDS)


def threads() -> int:
    """Return how many threads each parallel operation has in this process."""
    import torch

    count: int = torch.get_num_threads()
    return count


def set_threads(number: int) -> None:
    """Have each parallel operation done by so many threads."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(number)
    threadpool_limits(number)  # of the libraries that bring a pool of their own, bitsandbytes' for instance


def _main(work: Callable[[Send], None], messages: Connection, output: int, threads: int) -> None:
    os.setpgid(0, 0)  # so that what it starts ends with it, and Ctrl-C is its parent's to handle
    _end_with_parent()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdout = sys.stderr = os.fdopen(os.dup(output), "w", buffering=1, encoding="utf-8", errors="replace")
    faulthandler.enable(sys.stderr)
    set_threads(threads)
    keep_freed_memory()
    work(messages.send)
    sys.stdout.flush()
    os._exit(0)  # not waiting for threads that a plugin or a logger has left


def _end_with_parent() -> None:
    """Have Linux end this process when its parent does, even where that one was killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
