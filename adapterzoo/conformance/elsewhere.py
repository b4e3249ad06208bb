"""Load a saved adapter where its users do: in another process, at another time, from a folder that was moved."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from adapterzoo.conformance.host import ElsewhereError, Host, Visit
from adapterzoo.machine.fresh_process import DONE, FreshProcess
from adapterzoo.machine.processes import wait_for_any

if TYPE_CHECKING:
    import torch

START_SECONDS = 300.0
"""longest time until the other process has started and answers"""
HASH_SEED = "4711"


@cache
def _process() -> FreshProcess:
    """Return the process in which adapters are loaded. Its own children do the loading, so that it stays fresh."""
    return FreshProcess(Host(), 1, {"PYTHONHASHSEED": HASH_SEED})


def start() -> None:
    """Start the other process, before a method can change this one; it needs some seconds for its imports."""
    if not _process().alive:
        _process().kill()
        _process.cache_clear()
        _process()


def answers(visit: Visit) -> dict[str, torch.Tensor]:
    """Return the logits of a saved adapter, and of a merged model, in another process.

    Raises:
        ElsewhereError: loading raised an error, or read files outside of its folder, or took too long.
    """
    import torch

    process, answer = _process(), None
    process.give(replace(visit, context=replace(visit.context, batches=tuple)))
    begun = time.monotonic()
    while time.monotonic() < begun + START_SECONDS:
        wait_for_any([process])
        for message in process.messages():
            if message == DONE:
                if isinstance(answer, str):
                    raise ElsewhereError(answer)
                assert answer is not None
                return {name: torch.from_numpy(values) for name, values in answer.items()}
            answer = message
        if not process.alive:
            break
    _process.cache_clear()
    process.kill()
    raise ElsewhereError(f"its process has ended, or took longer than {START_SECONDS:.0f} seconds")
