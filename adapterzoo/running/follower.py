"""Do a piece of work as a rank other than 0: compute everything that rank 0 computes, and write nothing."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from adapterzoo.errors import AdapterzooError, failure_reason
from adapterzoo.machine.processes import Send
from adapterzoo.machine.rank_processes import FAILED
from adapterzoo.machine.stopping import StoppedError
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.machine.world import put_right
from adapterzoo.methods.registry import registry
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.prepare.settings import with_settings
from adapterzoo.results.result import Tuning
from adapterzoo.results.store import CHECKPOINTS, Store
from adapterzoo.running.cell import adapt, import_libraries, shared_prefix, train
from adapterzoo.running.measuring import measure, measure_general
from adapterzoo.running.of_base import OfBase, informed
from adapterzoo.running.trials import tune_cell
from adapterzoo.running.watch import Watch

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


def follow_item(
    prepared: Prepared,
    store: Store,
    cell: Cell | None,
    base: Base,
    tuning: Tuning | AdapterzooError | None,
    of_base: OfBase | None,
    send: Send,
) -> None:
    """Do a cell with rank 0, or measure the untouched base model; if it fails, send why and end this process.

    Args:
        prepared: the run.
        store: the output folder, from which checkpoints are read.
        cell: the cell; None for the untouched base model.
        base: the base model.
        tuning: see :meth:`adapterzoo.running.worker.Worker.do`.
        of_base: see there.
        send: sends messages to the process that has started the ranks.
    """
    try:
        if cell is None:
            OfBase.measured(prepared, base, Stopwatch())
        else:
            follow(prepared, store, cell, base, tuning, of_base)
    except StoppedError:
        os._exit(0)
    except BaseException as error:
        traceback.print_exc()
        sys.stdout.flush()
        send((FAILED, failure_reason(error)))
        os._exit(1)


def follow(
    prepared: Prepared,
    store: Store,
    cell: Cell,
    base: Base,
    tuning: Tuning | AdapterzooError | None,
    of_base: OfBase | None,
) -> None:
    """Do a cell with rank 0; see :func:`follow_item`."""
    method = [registry()[cell.method]] if isinstance(cell, MethodCell) else []
    import_libraries(prepared)
    with put_right(lambda what: None, *method, also=base.replaced):
        prepared, watch = informed(prepared, cell, of_base), Watch()
        if isinstance(cell, MethodCell) and cell.ranges:
            if tuning is None:
                tuning = tune_cell(prepared, cell, base, store.label(cell.label), watch)
            if isinstance(tuning, AdapterzooError):
                raise tuning
            cell = with_settings(cell, tuning["chosen"])
        with base.borrow() as model:
            if not isinstance(cell, MethodCell):
                measure(prepared, cell, model, shared_prefix(prepared, cell, model, watch), watch)
                return
            adapted = adapt(prepared, cell, model, watch)
            train(prepared, cell, adapted, store.cell(cell.label, cell.seed) / CHECKPOINTS, watch)
            measure(prepared, cell, adapted.model, adapted.prefix, watch, adapted.fair_play)
            if of_base is not None and of_base.general is not None:
                measure_general(prepared, adapted.model)
