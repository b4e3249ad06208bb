"""Be one of several processes that do a cell together; each is called a rank, and only rank 0 writes files.

All ranks run the same code in the same order. Where their results could differ, they agree through functions of this
module. In a process that does its cells alone, these functions do nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from adapterzoo.errors import UserError
from adapterzoo.terminal import counted

T = TypeVar("T")
# The variables of torch and accelerate; the last two are of the processes on this machine.
NUMBER, COUNT, ON_MACHINE, COUNT_ON_MACHINE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
MEETING = "ADAPTERZOO_RANKS"
"""variable that names the file by which the processes find each other; a launcher has another way"""
PATIENCE = timedelta(hours=2)
"""longest wait for another rank that lives, for example while rank 0 merges and saves a large adapter"""

_spreading = False
_helpers: list[Callable[[], None]] = []
"""what a rank that waits for the others does for them, until all of them wait"""


@dataclass(frozen=True)
class Rank:
    """The place of one process among the processes of a cell."""

    number: int
    count: int
    meeting: Path
    """file by which the processes find each other"""

    def environment(self) -> Mapping[str, str]:
        """Return the variables by which torch and accelerate know the place."""
        places = {NUMBER: self.number, COUNT: self.count, ON_MACHINE: self.number, COUNT_ON_MACHINE: self.count}
        # Without it, gloo looks for the address of this machine's name, which not every machine knows.
        interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        return {name: str(value) for name, value in {**places, **interface, MEETING: self.meeting}.items()}


def launched() -> int:
    """Return how many processes a launcher such as ``accelerate launch`` has started; 1 if there was none."""
    count = os.environ.get(COUNT, "1")
    return int(count) if count.isdecimal() and NUMBER in os.environ else 1


def follows() -> bool:
    """Tell whether a launcher has started this process as another rank than 0, which prints and writes nothing."""
    return launched() > 1 and os.environ[NUMBER] != "0"


def join() -> None:
    """Connect this process with the other ranks that its environment names; do nothing if there are none.

    Raises:
        UserError: a launcher has started more processes on a machine than this has GPUs.
    """
    if launched() == 1:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    where: dict[str, Any] = {}
    if meeting := os.environ.get(MEETING):
        # A port that is free now may be taken when rank 0 listens there.
        where = {"init_method": f"file://{meeting}", "rank": int(os.environ[NUMBER]), "world_size": launched()}
    distributed.init_process_group(backend, timeout=PATIENCE, **where)
    if torch.cuda.is_available():
        _take_gpu()


def _take_gpu() -> None:
    """Use the GPU that has the number of this process on its machine.

    Raises:
        UserError: a machine has fewer GPUs than processes.
    """
    import torch

    place = int(os.environ[ON_MACHINE])
    # Only the ranks without a GPU know of it, but all have to end, and rank 0 prints why.
    for needed, gpus in gathered((place + 1, torch.cuda.device_count())):
        if needed > gpus:
            started = max(needed, int(os.environ.get(COUNT_ON_MACHINE, 0)))
            what = f"has started {started} processes on a machine that has {counted(gpus, 'GPU')}."
            hint = "Start at most one for each GPU, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to compute on the CPU."
            raise UserError.at("the launcher", what, hint)
    torch.cuda.set_device(place)


def _joined() -> bool:
    distributed = sys.modules.get("torch.distributed")  # without it, this process has not joined any others
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def number() -> int:
    """Return the number of this rank; 0 if it is the only one."""
    return int(sys.modules["torch.distributed"].get_rank()) if _joined() else 0


def count() -> int:
    """Return the number of ranks."""
    return int(sys.modules["torch.distributed"].get_world_size()) if _joined() else 1


@contextmanager
def helping(help_others: Callable[[], None]) -> Iterator[None]:
    """Let a rank that waits for the others call a function in a ``with`` block, which returns when all of them wait."""
    _helpers.append(help_others)
    try:
        yield
    finally:
        _helpers.remove(help_others)


def _help_others() -> None:
    for help_others in _helpers:
        help_others()


def agreed(decide: Callable[[], T]) -> T:
    """Return what rank 0 decides; the other ranks do not call the function."""
    if count() == 1:
        return decide()
    box: list[Any] = [decide() if number() == 0 else None]
    _help_others()
    sys.modules["torch.distributed"].broadcast_object_list(box, src=0)
    decision: T = box[0]
    return decision


def gathered(value: T) -> list[T]:
    """Return the values of all ranks, in the order of their numbers."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    _help_others()
    sys.modules["torch.distributed"].all_gather_object(values, value)
    return values


def totals(values: Sequence[float]) -> list[float]:
    """Return the sums of numbers over all ranks."""
    if count() == 1:
        return list(values)
    import torch

    tensor = torch.tensor(values, dtype=torch.double)
    _help_others()
    sys.modules["torch.distributed"].all_reduce(tensor)
    sums: list[float] = tensor.tolist()
    return sums


def wait() -> None:
    """Wait until all ranks have come here."""
    totals([0.0])


@contextmanager
def spreading() -> Iterator[None]:
    """Let functions that measure a model divide their batches among the ranks in a ``with`` block.

    All ranks must measure the same model on the same rows there.
    """
    global _spreading
    before, _spreading = _spreading, True
    try:
        yield
    finally:
        _spreading = before


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Return the items that this rank has to do: all of them, except where ranks divide their work."""
    return items[number() :: count()] if _spreading else items


def merged(found: Mapping[int, T]) -> dict[int, T]:
    """Return what all ranks have found for the items that they divided, by the numbers of the items."""
    if not _spreading or count() == 1:
        return dict(found)
    return {index: value for part in gathered(dict(found)) for index, value in part.items()}
