"""Write the states of the random generators of all ranks into a checkpoint, which rank 0 alone writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from adapterzoo.machine import ranks

PATTERN = "rng_state*.pth"


def save_random_states(save: Callable[[str], None], folder: Path) -> None:
    """Save the states of all ranks.

    Args:
        save: writes the file of this rank into a folder.
        folder: folder of the checkpoint, which only rank 0 has to reach.
    """
    if ranks.count() == 1:
        save(str(folder))
        return
    with tempfile.TemporaryDirectory(prefix="adapterzoo-") as own:
        save(own)
        files = ranks.gathered({path.name: path.read_bytes() for path in Path(own).glob(PATTERN)})
    if ranks.number() == 0:
        for states in files:
            for name, content in states.items():
                (folder / name).write_bytes(content)
