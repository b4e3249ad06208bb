"""Say what a run would do with each cell, and why, without doing it."""

from __future__ import annotations

from typing import NamedTuple

from adapterzoo.errors import UserError
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.results.reading import read_result
from adapterzoo.results.result import RESULT
from adapterzoo.results.store import CHECKPOINTS
from adapterzoo.running.schedule import Schedule
from adapterzoo.training import checkpoints

REUSE, GO_ON, BEGIN = "reuse", "go on", "begin"


class PlannedCell(NamedTuple):
    """A cell, the action that a run would take, and the reason."""

    label: str
    seed: int
    action: str
    """one of ``REUSE``, ``GO_ON`` and ``BEGIN``"""
    why: str


def planned_cells(schedule: Schedule) -> list[PlannedCell]:
    """Return what a schedule would do with each cell of its run, in the order of the plan."""
    return [PlannedCell(cell.label, cell.seed, *_planned(schedule, cell)) for cell in schedule.prepared.cells]


def _planned(schedule: Schedule, cell: Cell) -> tuple[str, str]:
    if cell.key in schedule.kept:
        return REUSE, "it has a result"
    folder = schedule.store.cell(cell.label, cell.seed)
    if isinstance(cell, MethodCell) and (checkpoint := checkpoints.find(folder / CHECKPOINTS)) is not None:
        if cell.ranges:
            return GO_ON, f"from step {checkpoint.step}, if the same settings are chosen again"
        if schedule.store.suits(folder, schedule.worker.results.depends_on(cell)):
            return GO_ON, f"from step {checkpoint.step} of {schedule.prepared.steps}"
        return BEGIN, "its checkpoints are of other settings or of other versions of packages"
    try:
        result = read_result(folder / RESULT) if (folder / RESULT).is_file() else None
    except UserError:
        return BEGIN, "its result is damaged"
    if result is None:
        return BEGIN, "it has no result yet"
    return BEGIN, f"it failed before: {result.error}" if not result.ok else "some of its files have changed"
