"""Do a piece of work in a process: a cell, or the measurement of an untouched base model that cells need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo.errors import AdapterzooError, AloneError, failure_reason
from adapterzoo.machine import ranks
from adapterzoo.machine.processes import Send
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import Cell
from adapterzoo.results.result import Tuning
from adapterzoo.running.follower import follow_item
from adapterzoo.running.of_base import OfBase
from adapterzoo.running.watch import Sender
from adapterzoo.running.worker import Worker

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


@dataclass(frozen=True, eq=False)
class WorkItem:
    """A piece of work for a process: do a cell, or measure what cells need to know of an untouched base model."""

    quantization: str
    """quantization of the base model that the item needs"""
    cell: Cell | None = None
    """None for the untouched base model"""


@dataclass(frozen=True)
class EarlierResults:
    """The results of earlier items that a cell needs."""

    tuning: Tuning | AdapterzooError | None
    """tuning of the cell's label, or why it failed"""
    of_base: OfBase | None
    """what the cell needs to know of the untouched base model; None if that is nothing"""
    claim: Path | None = None
    """file by which this worker has claimed the cell; None if no claims are needed"""


def do_item(worker: Worker, item: WorkItem, base: Base, earlier: EarlierResults, send: Send) -> None:
    """Do an item and send its messages; this runs in the process of the item, or in each of its ranks."""
    if worker.devices > 1:
        ranks.join()
    if worker.prepared.recipe.train.weight_parts > 1:
        base.divide()
    if ranks.number() > 0:
        follow_item(worker.prepared, worker.store, item.cell, base, earlier.tuning, earlier.of_base, send)
        return
    if item.cell is not None:
        worker.store.claim = earlier.claim
        worker.do(item.cell, base, Sender(send), tuning=earlier.tuning, of_base=earlier.of_base)
        return
    clock = Stopwatch()
    try:
        of_base = OfBase.measured(worker.prepared, base, clock)
    except AloneError as error:
        of_base = OfBase.unknown(failure_reason(error))
    send(("of_base", of_base, clock.seconds))
