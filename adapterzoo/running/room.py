"""Estimate the disk space that a run needs, and say what to do if there is too little."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from adapterzoo.files import cache_folder
from adapterzoo.machine.processes import cores
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.terminal import size

BYTES_PER_ADAPTER_PARAMETER = 4
# A checkpoint holds each trained parameter and the two moments of AdamW, all in float32.
BYTES_PER_CHECKPOINT_PARAMETER = 12
# For each cell: its tokenizer, its result, and for each test example a line of predictions.
BYTES_PER_CELL = 4_000_000
BYTES_PER_EXAMPLE = 1_000


def needed(prepared: Prepared, cells: Sequence[Cell]) -> int:
    """Return about how many bytes cells write that have no result yet, with the checkpoints that exist together."""
    trained = sorted((prepared.trainable.get(cell.label, 0) for cell in cells), reverse=True)
    train, jobs = prepared.recipe.train, prepared.recipe.jobs
    together = cores() if jobs == "auto" else max(1, int(jobs))
    kept = train.save_limit + 1 if train.save_steps else 0  # an old checkpoint is removed after a new one is written
    results = BYTES_PER_ADAPTER_PARAMETER * sum(trained) + len(prepared.encoded.test) * BYTES_PER_EXAMPLE * len(cells)
    tokenizers = BYTES_PER_CELL * sum(isinstance(cell, MethodCell) for cell in cells)
    return results + tokenizers + BYTES_PER_CHECKPOINT_PARAMETER * kept * sum(trained[:together])


def warning(prepared: Prepared, cells: Sequence[Cell], out: Path) -> str | None:
    """Return a sentence that says that the disk is too small for a run; None if it is not."""
    wanted, free = needed(prepared, cells), _free(out)
    if free >= wanted:
        return None
    return f"the run needs about {size(wanted)} of disk space, but {size(free)} are free in {out}"


def disk_full(prepared: Prepared, cells: Sequence[Cell], out: Path) -> OSError:
    """Return the error that ends a run because a disk is full; it names the folder and says what to free.

    Args:
        prepared: the run.
        cells: the cells that have no result yet.
        out: the output folder.
    """
    # Libraries often do not say what they could not write, so name the folder with the least room.
    fullest = min((out, Path(tempfile.gettempdir()), cache_folder()), key=_free)
    what = f"the disk is full: {size(_free(fullest))} are free. Finished cells and checkpoints are kept."
    hint = f"Free about {size(needed(prepared, cells))} on this disk, and run the same command again to go on."
    return OSError(errno.ENOSPC, f"{what} {hint}", str(fullest))


def _free(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
