"""Check that the machines on which a launcher has started processes do the same run, and into one folder."""

from __future__ import annotations

import platform
from functools import partial
from pathlib import Path

from adapterzoo.errors import Problem, UserError
from adapterzoo.machine import ranks
from adapterzoo.machine.environment import other_versions
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.results.claim_files import remove_claims
from adapterzoo.results.identity import differences, recipe_identity
from adapterzoo.results.probe import sees, write_probe
from adapterzoo.running.cell_results import CellResults


def require_same_run(prepared: Prepared) -> None:
    """Check that every rank has prepared the same run: recipe, rows, model, packages.

    Raises:
        UserError: a rank has prepared another run than rank 0.
    """
    identity = recipe_identity(prepared.recipe.resolved(), str(prepared.fingerprints["data"]), prepared.weights)
    packages = CellResults(prepared, identity).packages()
    (_, first, wanted), *others = ranks.gathered((platform.node(), identity, packages))
    problems = list[Problem]()
    for number, (machine, own, found) in enumerate(others, 1):
        rank = f"rank {number} on {machine}"
        if changes := differences(own, first):
            what = f"has prepared another run than rank 0 ({'; '.join(changes)})."
            problems.append(Problem(rank, what, "Give all machines the same recipe, data and model."))
        problems += other_versions(rank, found, wanted)
    if problems:
        raise UserError(*problems)


def require_shared(folder: Path) -> None:
    """Check that every rank sees the output folder, because all of them go on from the checkpoints in it.

    Raises:
        UserError: a rank on another machine does not see it.
    """
    text = ranks.agreed(partial(write_probe, folder))
    found = ranks.gathered((platform.node(), sees(folder, text)))
    if ranks.number() == 0:
        remove_claims(folder)  # with the text
    for number, (machine, is_seen) in enumerate(found):
        if not is_seen:
            what = f"rank {number} on {machine} does not see this folder, in which checkpoints are."
            raise UserError.at(f"--out {folder}", what, "Name a folder that all machines share.")
