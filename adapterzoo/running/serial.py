"""Run the cells of a run one after the other in this process."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

from adapterzoo.errors import AloneError, failure_reason
from adapterzoo.machine import gpu, processes, stopping
from adapterzoo.machine.limits import TooLongError
from adapterzoo.machine.memory import keep_freed_memory
from adapterzoo.machine.stopping import StoppedError
from adapterzoo.prepare.plan import Cell
from adapterzoo.results.claims import LOOK_SECONDS
from adapterzoo.results.result import Result
from adapterzoo.running import parallel
from adapterzoo.running.of_base import OfBase, needs_base
from adapterzoo.running.schedule import CellWatch, Schedule
from adapterzoo.running.worker import too_long

if TYPE_CHECKING:
    from adapterzoo.model.base import Base


class SerialSchedule(Schedule):
    """A schedule that runs the cells one after the other in this process and loads each base model once."""

    def do(self) -> None:
        """Run the cells one after the other."""
        kept = self.store.threads()
        threads = parallel.known_threads(self.recipe.threads, "auto", kept) or processes.cores()
        self.worker.results.threads = self.claims.agreed_threads(threads)
        processes.set_threads(self.worker.results.threads)
        keep_freed_memory()
        if not self.claims.shared:
            self.store.keep_threads(self.worker.results.threads)
        with gpu.repeatable():
            while (cell := self._next_cell()) is not None:
                base = self.bases.get(cell.quantization)
                if base is None:
                    self.bases = {name: error for name, error in self.bases.items() if isinstance(error, Exception)}
                    gc.collect()
                    base = self._load(cell.quantization)
                self.reporter.start(cell.label, cell.seed)
                if (result := self._unless_lost(cell, base)) is not None:
                    self._finish(result)

    def _next_cell(self) -> Cell | None:
        """Return the next cell to do; None if there is none, or the user stops the run."""
        while not stopping.asked():
            self._note_others()
            missing = [cell for cell in self.todo if cell.key not in self.done]
            taken = next((cell for cell in missing if self._take(cell)), None)
            if taken is not None or not missing or not self.claims.waits:
                return taken
            time.sleep(LOOK_SECONDS)
        return None

    def _unless_lost(self, cell: Cell, base: Base | Exception) -> Result | None:
        """Do a cell; return its result, or None if another worker has the cell by now (see :meth:`Claims.lost`)."""
        self.worker.store.claim = self.claims.claim_of(cell.key)
        try:
            return self._do_cell(cell, base)
        except StoppedError:
            if stopping.asked() or cell.key not in self.claims.lost(at_once=True):
                raise
            self.claims.forget(cell.key)
            return None

    def _do_cell(self, cell: Cell, base: Base | Exception) -> Result:
        try:
            if isinstance(base, Exception):
                raise base
            if needs_base(self.prepared, cell) and cell.quantization not in self.of_base:
                self.of_base[cell.quantization] = OfBase.measured(self.prepared, base, self.clock)
        except (Exception, AloneError) as error:
            return self.worker.fail(cell, failure_reason(error), "", keep_checkpoints=True)
        tuning, of_base = self.tunings.get(cell.label), self.of_base.get(cell.quantization)
        limit = self.recipe.train.time_limit
        self.store.discard(cell.label, cell.seed)  # so that a result that exists at the end is this one
        try:
            watch = CellWatch(self, cell)
            result = self.worker.do(cell, base, watch, tuning=tuning, of_base=of_base, limit=limit)
        except TooLongError:
            result = self._written(cell) or self.worker.fail(cell, too_long(limit), "", keep_checkpoints=True)
        if limit is not None and not result.ok:
            base.invalidate()  # the cell may have been stopped while the base model was put back as it was
        return result
