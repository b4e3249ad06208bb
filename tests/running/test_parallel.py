"""Check how many cells run at the same time, and with how many threads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapterzoo.prepare.plan import MethodCell
from adapterzoo.running import parallel
from adapterzoo.running.parallel import Concurrency


def test_no_more_processes_are_probed_after_one_process_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a process that succeeds says how much memory the next ones will need."""
    probed: list[Concurrency] = []

    def failing(*arguments: Any) -> tuple[float, int]:
        probed.append(arguments[-1])
        return 0.0, 0

    monkeypatch.setattr(parallel, "cores", lambda: 4)
    monkeypatch.setattr(parallel, "_trainings_per_hour", failing)
    cell = MethodCell(label="lora", method="lora", quantization="none", seed=0, learning_rate=1.0)
    messages: list[str] = []
    prepared: Any = SimpleNamespace(steps=1000)
    assert parallel.probe(prepared, [cell], None, "auto", 8, messages.append).threads == 1
    assert probed == [Concurrency(1, 4)]
    assert messages == ["each cell gets one thread, because the probe of 'lora' failed"]
