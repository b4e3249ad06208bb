"""Use methods in processes of their own, which a method may end without harm to the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from adapterzoo.machine.memory import spare_imported_modules
from adapterzoo.machine.processes import can_fork, cores, set_threads

KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")


def in_pool(
    work: Callable[[KeyT], ResultT], keys: Sequence[KeyT], died: Callable[[KeyT], ResultT], jobs: int | None
) -> Iterator[ResultT]:
    """Do some work for each key in several processes with one thread each, and yield the results in their order.

    Args:
        work: a function at the top of a module; what it prints is thrown away.
        keys: for each piece of work, the argument of the function.
        died: gives the result for a key whose process died.
        jobs: number of processes; None for one per core that this process may use.
    """
    from concurrent.futures.process import BrokenProcessPool

    # The processes and those that they start inherit this variable. With several threads each, they would compete for
    # the same cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    done = 0
    try:
        for result in _pool(work, keys, jobs or cores()):
            done += 1
            yield result
    except BrokenProcessPool:
        # It is not known which key's work killed its process, so all that have no result are done one by one.
        for key in keys[done:]:
            try:
                yield from _pool(work, [key], 1)
            except BrokenProcessPool:
                yield died(key)


def _pool(work: Callable[[KeyT], ResultT], keys: Sequence[KeyT], jobs: int) -> Iterator[ResultT]:
    """Do the work in a pool of processes; raise ``BrokenProcessPool`` if one of them dies."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    fork = can_fork()
    if fork:
        spare_imported_modules()  # this process imports them once for all
    with ProcessPoolExecutor(min(jobs, len(keys)), get_context("fork" if fork else "spawn"), _begin) as pool:
        yield from pool.map(work, keys)


def _begin() -> None:
    """Throw away what this process prints, and compute with one thread."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    set_threads(1)
