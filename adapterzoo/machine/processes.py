"""Run functions in separate processes, so that what they break or change cannot affect other work."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from adapterzoo.errors import ProcessEndedError
from adapterzoo.machine import stopping
from adapterzoo.machine.control_groups import cores_of_groups
from adapterzoo.machine.memory import keep_freed_memory

Send = Callable[[Any], None]
TICK_SECONDS = 0.25  # longest wait for a message
PR_SET_PDEATHSIG = 1  # an option of Linux's prctl
MAX_OUTPUT_BYTES = 20_000  # only this much of the end of a process's output is read


def can_fork() -> bool:
    """Tell whether this process can be forked; with CUDA or on macOS, libraries would break in the child."""
    import torch

    return sys.platform == "linux" and not torch.cuda.is_available()


class ProcessHandle:
    """The parent's view of a process: its messages, what it printed, and how it ended."""

    def __init__(self, messages: Connection, output: IO[bytes]) -> None:
        self._messages = messages
        self._output = output
        self._output_start = 0

    def connections(self) -> list[Connection]:
        """Return the connections on which messages of the process arrive."""
        return [self._messages]

    def messages(self) -> Iterator[Any]:
        """Yield the messages that the process has sent since the last call."""
        try:
            while self._messages.poll():
                yield self._messages.recv()
        except (EOFError, OSError):  # the process has ended, perhaps in the middle of a message
            return

    @property
    def alive(self) -> bool:
        """Whether the process is still running."""
        raise NotImplementedError

    def wait(self) -> int:
        """Wait until the process has ended; return its exit code, which is negative if a signal ended it."""
        raise NotImplementedError

    @property
    def process_id(self) -> int:
        """Number of the process, which is also the number of its process group."""
        raise NotImplementedError

    def give(self, item: Any) -> None:
        """Give the process its next piece of work, if it is of a kind that does several."""
        raise NotImplementedError

    def failure(self) -> str | None:
        """Return why a process that has ended failed; None if it did not fail."""
        code = self.wait()
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            cause = " (out of memory, or killed by a user)" if -code == signal.SIGKILL else ""
            return f"its process was ended by {name}{cause}"
        return f"its process ended with exit code {code}" if code else None

    def forget_output(self) -> None:
        """Leave what the process has printed so far out of :meth:`output`."""
        self._output_start = os.fstat(self._output.fileno()).st_size

    def output(self) -> str:
        """Return the end of what the process has printed, at most MAX_OUTPUT_BYTES bytes."""
        size = os.fstat(self._output.fileno()).st_size
        self._output.seek(max(self._output_start, size - MAX_OUTPUT_BYTES))
        return self._output.read().decode(errors="replace")

    def ask_to_stop(self) -> None:
        """Ask the process to save and end what it is training (see :mod:`.stopping`)."""
        with suppress(ProcessLookupError):
            os.kill(self.process_id, signal.SIGUSR1)

    def kill(self) -> None:
        """End the process at once, and the processes that it has started."""
        try:
            os.killpg(self.process_id, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended, or does not lead a process group yet
            if self.alive:
                os.kill(self.process_id, signal.SIGKILL)
        self.wait()


class Process(ProcessHandle):
    """A forked process that does one piece of work and sends messages to this process.

    It starts with the memory of this process, without copying it. No other process sees what it changes in this memory.
    """

    def __init__(self, work: Callable[[Send], None], threads: int) -> None:
        """Start the process.

        Args:
            work: is called in the new process, with a function that sends messages (anything that can be pickled).
            threads: number of threads that each parallel operation gets.
        """
        context = multiprocessing.get_context("fork")
        messages, sending_end = context.Pipe(duplex=False)
        super().__init__(messages, output_file())
        arguments = (work, sending_end, self._output.fileno(), threads, os.getpid())
        self._process = context.Process(target=_main, args=arguments)
        self._process.start()
        sending_end.close()

    @property
    def alive(self) -> bool:
        """See :attr:`ProcessHandle.alive`."""
        return self._process.is_alive()

    def wait(self) -> int:
        """See :meth:`ProcessHandle.wait`."""
        self._process.join()
        return self._process.exitcode or 0

    @property
    def process_id(self) -> int:
        """See :attr:`ProcessHandle.process_id`."""
        return self._process.pid or 0


def in_processes(
    functions: Sequence[Callable[[], Any]],
    jobs: int,
    threads_each: int | None = None,
    time_limit: float | None = None,
) -> list[Any]:
    """Call each function in its own process, so that no function sees what another one changed.

    Where processes cannot be forked, the functions are called one after the other in this process.

    Args:
        functions: functions whose return values can be pickled.
        jobs: number of functions that run at the same time.
        threads_each: number of threads of each process; by default, the number that this process has.
        time_limit: seconds after which a process is ended.

    Returns:
        The return values, in the order of the functions. A missing one is replaced by the exception that the function
        raised, or by a ProcessEndedError if its process ended early.
    """
    if not can_fork():
        return [_answer(function) for function in functions]
    answers: list[Any] = [None] * len(functions)
    waiting, running, begun = list(range(len(functions))), dict[Process, int](), dict[int, float]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number = waiting.pop(0)
                running[Process(partial(_send_answer, functions[number]), threads_each or threads())] = number
                answers[number] = ProcessEndedError("its process sent nothing")
                begun[number] = time.monotonic()
            wait_for_any(list(running))
            for process, number in list(running.items()):
                why = None
                if time_limit is not None and time.monotonic() - begun[number] > time_limit:
                    process.kill()
                    why = f"it took longer than {time_limit:g} seconds"
                ended = not process.alive
                for answer in process.messages():
                    answers[number] = answer
                if ended:
                    del running[process]
                    if isinstance(answers[number], ProcessEndedError) and (why := why or process.failure()):
                        answers[number] = ProcessEndedError(why)
    finally:
        for process in running:
            process.kill()
    return answers


def _answer(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error.with_traceback(None)  # a traceback would keep the tensors of the function in memory


def _send_answer(work: Callable[[], Any], send: Send) -> None:
    send(_answer(work))


def cores() -> int:
    """Return the number of cores that this process may use; with a limit of 1.5, as in a container, that is one."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    of_groups = cores_of_groups()
    return number if of_groups is None else max(min(number, int(of_groups)), 1)


def process_started(number: int) -> float | None:
    """Return when a process began; None if there is no process of this number."""
    import psutil

    try:
        return float(psutil.Process(number).create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None


def wait_for_any(processes: Sequence[ProcessHandle]) -> None:
    """Wait until one of the processes has sent a message or has ended, at most TICK_SECONDS."""
    connections = [connection for process in processes for connection in process.connections()]
    wait(connections, TICK_SECONDS)  # also ends when a process has ended


def threads() -> int:
    """Return the number of threads that each parallel operation gets in this process."""
    import torch

    count: int = torch.get_num_threads()
    return count


def set_threads(number: int) -> None:
    """Set the number of threads that each parallel operation gets in this process."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(number)
    threadpool_limits(number)  # libraries such as bitsandbytes have thread pools of their own


def _main(work: Callable[[Send], None], messages: Connection, output: int, threads: int, parent: int) -> None:
    # In a process group of its own, the process can be killed with its children, and Ctrl-C reaches only its parent.
    os.setpgid(0, 0)
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent's handlers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, stopping.ask)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.stdout = sys.stderr = os.fdopen(os.dup(output), "w", buffering=1, encoding="utf-8", errors="replace")
    faulthandler.enable(sys.stderr)
    set_threads(threads)
    keep_freed_memory()
    gc.freeze()  # a collection would visit, and so copy, all objects of the parent, which are no garbage here
    work(messages.send)
    sys.stdout.flush()
    os._exit(0)  # do not wait for threads that a plugin or a logger has left running


def output_file() -> IO[bytes]:
    """Return a file without a name for what a process prints, which is read after the process has ended."""
    return tempfile.TemporaryFile()


def end_with_parent(parent: int) -> None:
    """Make Linux end this process when its parent ends, even if the parent is killed, or was before this call."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
