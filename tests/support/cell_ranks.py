"""Runs whose cells are done by several processes, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from adapterzoo.machine import ranks
from adapterzoo.machine.processes import Send, wait_for_any
from adapterzoo.machine.rank_processes import forked_ranks

QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")
RANKS = ("--set", "train.devices=2")


def result(out: Path, label: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / label / "seed-0" / "result.json").read_text())
    return found


def adapter(out: Path, label: str) -> dict[str, Any]:
    return load_file(out / label / "seed-0" / "adapter" / "adapter_model.safetensors")


def by_ranks(work: Callable[[], Any]) -> list[Any]:
    """Let two processes do a piece of work together; return what each of them returns."""

    def send_all(send: Send) -> None:
        ranks.join()
        found = ranks.gathered(work())
        send(found)

    processes, messages = forked_ranks(2, send_all, 1), list[Any]()
    while processes.alive:
        wait_for_any([processes])
        messages += processes.messages()
    messages += processes.messages()
    assert messages, processes.output()
    found: list[Any] = messages[0]
    return found
