"""Run the command line in a process that is forked from the tests, which have imported torch, transformers and PEFT.

A new Python process needs four seconds of the processor for these imports alone. Tests of what a new process needs
start one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapterzoo.machine.memory import spare_imported_modules
from adapterzoo.machine.processes import end_with_parent

PYTHON_SETS = (signal.SIGPIPE, signal.SIGXFSZ)  # signals that Python ignores in any case


class Forked(subprocess.Popen):  # type: ignore[type-arg]
    """A ``subprocess.Popen`` of ``python -m adapterzoo ...`` that forks this process instead of starting Python."""

    def _execute_child(  # the arguments of this function of subprocess's, in its order
        self, args: Sequence[str], executable: Any, preexec_fn: Callable[[], Any] | None, close_fds: bool,
        pass_fds: Sequence[int], cwd: Any, env: Mapping[str, str] | None, startupinfo: Any, creationflags: int,
        shell: bool, p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
        restore_signals: bool, gid: Any, gids: Any, uid: Any, umask: int, start_new_session: bool, *further: Any,
    ) -> None:  # fmt: skip
        spare_imported_modules()  # once here, or each forked process would import the libraries
        sys.stdout.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid:
            self._child_created = True
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
            return
        code = 1
        try:
            if start_new_session:
                os.setsid()
            end_with_parent(parent)
            _connect((p2cread, c2pwrite, errwrite), (p2cwrite, c2pread, errread))
            if preexec_fn is not None:
                preexec_fn()
            _reset(env)
            self.work([str(argument) for argument in args], pass_fds)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # what the tests do at their end is not this process's to do

    def work(self, arguments: list[str], descriptors: Sequence[int]) -> None:
        from adapterzoo.cli import main

        assert arguments[1:3] == ["-m", "adapterzoo"]
        main(arguments[3:], prog_name="adapterzoo")


def run(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a forked process, with some more environment variables."""
    command = [sys.executable, "-m", "adapterzoo", *map(str, arguments)]
    started = Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    stdout, stderr = started.communicate()
    return subprocess.CompletedProcess(command, started.returncode, stdout, stderr)


class ForkedWorker(Forked):
    """The process that a ``FreshProcess`` starts, forked in the same way."""

    def work(self, arguments: list[str], descriptors: Sequence[int]) -> None:
        from adapterzoo.machine.fresh_process import main

        main(*descriptors, os.getppid())


def _connect(ends: Sequence[int], others: Sequence[int]) -> None:
    """Make the standard streams of this process those of its parent's Popen, and close the parent's ends of them."""
    for stream, end in enumerate(ends):
        if end != -1:
            os.dup2(end, stream)
    for end in others:
        if end != -1:
            os.close(end)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)


def _reset(environment: Mapping[str, str] | None) -> None:
    """Set what a new Python process would have: its environment, its path, and signals that nothing handles."""
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # TMPDIR may be another
    if path := os.environ.get("PYTHONPATH"):
        sys.path[:0] = path.split(os.pathsep)
        _forget_plugins()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *PYTHON_SETS}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _forget_plugins() -> None:
    """Forget what adapterzoo keeps in this process, so that it looks for plugins on the new path."""
    for name, module in list(sys.modules.items()):
        for value in list(vars(module).values()) if name.partition(".")[0] == "adapterzoo" else ():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
