"""Measure the peak memory of one cell, and control what the process keeps of its freed memory."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

from adapterzoo.machine.control_groups import free_memory_of_groups, memory_of_groups

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
# Training keeps a weight, its gradient and the two moments of AdamW in memory, each in float32.
BYTES_PER_TRAINED_PARAMETER = 16
# Parameters of glibc's mallopt.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# glibc keeps the freed memory of its heap if it never trims the heap. Put blocks of up to 32 MB into the heap too:
# glibc accepts no higher limit.
KEEP_FREED = {M_MMAP_THRESHOLD: 32 * 1024**2, M_TRIM_THRESHOLD: 2**31 - 1}
GIVE_BACK_FREED = {M_MMAP_THRESHOLD: 2**18, M_TRIM_THRESHOLD: 2**20}
# Until it is told something, glibc raises both by itself, up to these, when large blocks are freed.
USUAL = {M_MMAP_THRESHOLD: 32 * 1024**2, M_TRIM_THRESHOLD: 64 * 1024**2}
_allocator = list[Mapping[int, int]]()  # what was set last


def available() -> int:
    """Return the free bytes where models are loaded: on the GPU if there is one, else in the machine."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else available_outside_gpus()


def available_outside_gpus() -> int:
    """Return the free bytes of the machine, or of the container or batch job that this process is in."""
    import psutil

    free = int(psutil.virtual_memory().available)
    of_groups = free_memory_of_groups()
    return free if of_groups is None else min(free, of_groups)


def total() -> int:
    """Return the bytes that this machine has where models are loaded: on the GPU, else in the machine with its swap."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1])
    whole = int(psutil.virtual_memory().total + psutil.swap_memory().total)
    of_groups = memory_of_groups()
    return whole if of_groups is None else min(whole, of_groups)


def free_memory() -> None:
    """Free the memory that no object uses any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@cache
def spare_imported_modules() -> None:
    """Import the large libraries, and exclude the objects of all modules from garbage collection.

    The trainer and the measurement of memory collect garbage for each cell. Modules never become garbage, but without
    this a collection visits all their objects, a third of a second each time. During the imports it is turned off.
    """
    gc.disable()
    try:
        with _compiling_later():
            import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
        import transformers.trainer  # noqa: F401
    finally:
        gc.enable()
    spare_present_objects()


def spare_present_objects() -> None:
    """Exclude all objects of this moment from garbage collection, after collecting what is garbage.

    Otherwise a process that trains many small models spends a tenth of its time on the trainer's collections. An object
    of this moment that becomes part of a cycle of garbage later stays in memory.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def _compiling_later() -> Iterator[None]:
    """Let ``torch.compile`` do nothing before a function is called, in a ``with`` block.

    bitsandbytes has a few functions compiled while it is imported. This imports torch's compiler, which takes a second,
    and hardly any run calls one of these functions.
    """
    import torch

    compile_now = torch.compile

    def compile_later(model: Any = None, **settings: Any) -> Any:
        if model is None:  # torch.compile(option=value) is a decorator
            return partial(compile_later, **settings)
        compiled = cache(lambda: compile_now(model, **settings))
        return lambda *args, **kwargs: compiled()(*args, **kwargs)

    torch.compile = compile_later
    try:
        yield
    finally:
        torch.compile = compile_now


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next tensors of this process; return whether it does.

    By default glibc gives large blocks back to the system at once. The system then clears new pages for every tensor
    of a step, which takes as long as the arithmetic on them.
    """
    return _set_allocator(KEEP_FREED)


def give_back_freed_memory() -> bool:
    """Make glibc give the memory of each large tensor back at once; return whether it does.

    What it keeps is in pieces that the next tensor may not fit into, so that a process which keeps freed memory grows.
    """
    return _set_allocator(GIVE_BACK_FREED)


@contextmanager
def giving_back_freed_memory() -> Iterator[None]:
    """Make glibc give the memory of each large tensor back in a ``with`` block, and what it has kept at its end."""
    before = _allocator[0] if _allocator else USUAL
    give_back_freed_memory()
    try:
        yield
    finally:
        _trim()
        _set_allocator(before)


def _set_allocator(settings: Mapping[int, int]) -> bool:
    """Set parameters of glibc's mallopt; return whether it accepted them."""
    _allocator[:] = [settings]
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # the C library is not glibc
            libc = ctypes.CDLL("libc.so.6")
            return all(libc.mallopt(name, value) for name, value in settings.items())
    return False


class PeakMemory:
    """Measures the peak memory within a ``with`` block: on a GPU, what torch allocated; else the memory of the process.

    >>> with PeakMemory() as peak:
    ...     work()
    >>> peak.bytes
    """

    bytes: int

    def __enter__(self) -> PeakMemory:
        import torch

        gc.collect()
        self._cuda = torch.cuda.is_available()
        self._sampler: _Sampler | None = None
        if self._cuda:
            torch.cuda.init()  # before, torch does not accept the number of a GPU
            torch.cuda.empty_cache()
            for number in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(number)
            return self
        _trim()
        try:
            CLEAR_REFS.write_text("5")  # makes Linux reset the peak that it keeps of this process
        except OSError:
            self._sampler = _Sampler()
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        if self._cuda:
            # A model may be spread over several GPUs; what other processes use there does not count.
            self.bytes = sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
        elif self._sampler is not None:
            self.bytes = self._sampler.stop()
        else:
            (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
            self.bytes = int(line.split()[1]) * 1024


class _Sampler(threading.Thread):
    """A thread that reads the resident memory every 20 ms, for systems that cannot reset a process's peak."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss)
            if self._done.wait(0.02):
                return

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.peak


def _trim() -> None:
    """Make glibc return freed memory of earlier cells to the system, because it would count as memory of this cell."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # the C library is not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
