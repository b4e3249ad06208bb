"""Threads that share a virtual clock: one runs at a time, and time only passes while all of them sleep."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class VirtualThread:
    """A thread of a machine in virtual time."""

    def __init__(self, machine: Any, function: Callable[[], Any]) -> None:
        self.machine = machine
        self.done = False
        self.go = threading.Semaphore(0)
        self.function = function


class VirtualTime:
    """A clock, and the threads that sleep by it.

    A machine is any object with ``dead`` and ``asleep_until``: the threads of a dead one never wake up again, and those
    of one that is asleep wake up late.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._sleeping: list[tuple[float, int, VirtualThread]] = []
        self._order = itertools.count()
        self._ended = threading.Semaphore(0)
        self._current: VirtualThread | None = None
        self.errors: list[BaseException] = []

    def start(self, machine: Any, function: Callable[[], Any], delay: float = 0.0) -> VirtualThread:
        """Begin a thread after a delay."""
        thread = VirtualThread(machine, function)

        def body() -> None:
            thread.go.acquire()
            try:
                function()
            except BaseException as error:
                self.errors.append(error)
            thread.done = True
            self._wake_next()

        threading.Thread(target=body, daemon=True).start()
        heapq.heappush(self._sleeping, (self.now + delay, next(self._order), thread))
        return thread

    def run(self) -> None:
        """Let the threads run until all have ended, or belong to dead machines; raise the first error of one."""
        self._wake_next()
        self._ended.acquire()
        if self.errors:
            raise self.errors[0]

    def sleep(self, seconds: float) -> None:
        """Let the calling thread sleep."""
        thread = self._current
        assert thread is not None
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._order), thread))
        self._wake_next()
        thread.go.acquire()

    @property
    def machine(self) -> Any:
        """Return the machine of the thread that runs."""
        assert self._current is not None
        return self._current.machine

    def _wake_next(self) -> None:
        """Wake the thread whose time has come, and the caller then has to wait for its own turn."""
        while self._sleeping and not self.errors:
            when, _, thread = heapq.heappop(self._sleeping)
            if thread.machine.dead:
                continue
            if thread.machine.asleep_until > when:
                heapq.heappush(self._sleeping, (thread.machine.asleep_until, next(self._order), thread))
                continue
            self.now, self._current = max(self.now, when), thread
            thread.go.release()
            return
        self._ended.release()

    def time_module(self) -> Any:
        """Return what stands for the module ``time``."""
        return SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)

    def threading_module(self) -> Any:
        """Return what stands for the module ``threading``, with its ``Thread`` and its ``Event``."""
        clock = self

        class Event:
            def __init__(self) -> None:
                self._set = False

            def set(self) -> None:
                self._set = True

            def wait(self, seconds: float) -> bool:
                if not self._set:
                    clock.sleep(seconds)
                return self._set

        class Thread:
            def __init__(self, target: Callable[[], Any], daemon: bool) -> None:
                self._target = target

            def start(self) -> None:
                self._thread = clock.start(clock.machine, self._target)

            def join(self) -> None:
                while not self._thread.done:
                    clock.sleep(1.0)

        return SimpleNamespace(Event=Event, Thread=Thread)
