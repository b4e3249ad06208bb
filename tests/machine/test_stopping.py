"""A signal that asks for a stop may come at any moment, also while a line is printed."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from adapterzoo.machine import stopping
from adapterzoo.running.progress import PlainReporter


class Terminal(io.RawIOBase):
    """A file in whose first write this process gets SIGTERM."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not stopping.asked():
            os.kill(os.getpid(), signal.SIGTERM)
        self.written += bytes(data)
        return len(data)


def stopped(work: Callable[[], None], say: Callable[[str], None]) -> None:
    """Do some work in which a stop is asked for."""
    with stopping.gently(say):
        work()


def test_a_signal_while_a_line_is_printed_asks_for_a_stop(capfd: pytest.CaptureFixture[str]) -> None:
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    terminal = Terminal()
    stream = io.TextIOWrapper(io.BufferedWriter(terminal), line_buffering=True)
    say = PlainReporter(Console(file=stream)).say

    def work() -> None:
        say("[1/3] lora: training")
        say("[1/3] lora: saving")

    with pytest.raises(KeyboardInterrupt) as asked:
        stopped(work, say)
    assert asked.value.args == (signal.SIGTERM,)
    assert terminal.written.decode().splitlines() == ["[1/3] lora: training", "[1/3] lora: saving"]
    assert capfd.readouterr().err == f"{stopping.MESSAGE}\n"


def test_a_run_whose_terminal_is_gone_can_still_be_stopped() -> None:
    done: list[int] = []

    def say(message: str) -> None:
        raise BrokenPipeError

    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(stopping.asked())

    with pytest.raises(KeyboardInterrupt):
        stopped(work, say)
    assert done == [signal.SIGTERM], "the work went on"
