"""Start new Python processes for GPUs, which forked processes cannot use; each does one piece of work after another."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from adapterzoo.errors import UserError
from adapterzoo.machine import stopping
from adapterzoo.machine.processes import ProcessHandle, Send, end_with_parent, output_file, set_threads

DONE = ("done",)  # the message with which a process says that it waits for its next piece of work
# Set the path first: otherwise Python would import modules from the working directory.
START = (
    "import sys; sys.path[:] = {path}; from adapterzoo.machine.fresh_process import main; main({descriptor}, {parent})"
)


class FreshProcess(ProcessHandle):
    """A new Python process that shares no memory with this one.

    It first receives a handler, an object that is called with each piece of work and may keep what the next ones need,
    such as a loaded model. Unlike the processes of multiprocessing, it does not import the user's main script again.
    """

    def __init__(self, handler: Callable[[Any, Send], None], threads: int, environment: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            handler: can be pickled; is called in the new process with each piece of work, and with a function that
                sends messages.
            threads: number of threads that each parallel operation gets.
            environment: variables that the process gets in addition to those of this one.

        Raises:
            UserError: the handler cannot be pickled, for example because a model brings its own tokenizer.
        """
        try:
            first_message = ForkingPickler.dumps((handler, threads))
        except Exception as error:  # the code of a model may raise anything here
            what = f"this run cannot be sent to another process ({type(error).__name__}: {error})."
            raise UserError.at("jobs", what, "Set jobs: 0.") from None
        messages, child_end = multiprocessing.Pipe()
        super().__init__(messages, output_file())
        self._process = subprocess.Popen(
            [sys.executable, "-c", START.format(path=sys.path, descriptor=child_end.fileno(), parent=os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**os.environ, **environment},
            pass_fds=[child_end.fileno()],
            start_new_session=True,  # Ctrl-C reaches only the parent
        )
        child_end.close()
        self._send(first_message)

    def give(self, item: Any) -> None:
        """Give the process its next piece of work; it must have finished the one before."""
        self.forget_output()
        self._send(ForkingPickler.dumps(item))

    def _send(self, message: Any) -> None:
        try:
            self._messages.send_bytes(message)
        except OSError:  # the process has ended; failure() says why
            return

    @property
    def alive(self) -> bool:
        """See :attr:`ProcessHandle.alive`."""
        return self._process.poll() is None

    def wait(self) -> int:
        """See :meth:`ProcessHandle.wait`."""
        return self._process.wait()

    @property
    def process_id(self) -> int:
        """See :attr:`ProcessHandle.process_id`."""
        return self._process.pid


def main(descriptor: int, parent: int) -> None:
    """Do the work that a parent sends over a pipe; this is the main function of the new process."""
    end_with_parent(parent)
    signal.signal(signal.SIGUSR1, stopping.ask)
    faulthandler.enable()
    messages = Connection(descriptor)
    handler, threads = messages.recv()
    set_threads(threads)
    while True:
        try:
            item = messages.recv()
        except EOFError:  # the parent has closed its end
            os._exit(0)
        handler(item, messages.send)
        sys.stdout.flush()
        messages.send(DONE)
