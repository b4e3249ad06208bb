"""Check ``adapterzoo check --probe``: the expected time and memory of each cell and of the whole run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from cells import Bench
from click.testing import Result

from adapterzoo.model import base
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.running import forecast
from adapterzoo.running.cell import adapt
from adapterzoo.running.forecast import Expected, _cell_seconds, makespan
from adapterzoo.running.parallel import Concurrency


def test_every_cell_and_the_run_have_a_time_and_a_memory_use(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that ends its process has neither, and does not disturb the others."""

    def ia3_ends_its_process(prepared: Any, cell: MethodCell, *arguments: Any) -> Any:
        return os._exit(3) if cell.label == "ia3" else adapt(prepared, cell, *arguments)

    monkeypatch.setattr(forecast, "adapt", ia3_ends_its_process)
    recipe = write_recipe("lora, qlora, ia3", "seeds: [0, 1]\n")
    done = adapterzoo("check", recipe, "--probe", "--set", "evaluate.general_text=shipped")
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split() for line in done.output.splitlines() if line.strip()}
    for label in ("base", "lora", "qlora"):
        assert re.fullmatch(r"\d+:\d\d", rows[label][-2]), "time"
        assert rows[label][-1].endswith("MB") or rows[label][-1].endswith("GB"), "memory"
    assert rows["ia3"][-2:] == ["failed", "-"]
    (failure,) = (line for line in done.output.splitlines() if line.startswith("! ia3"))
    assert "exit code 3" in failure
    assert rows["expected:"][2:6] == ["for", "the", "whole", "run,"]


def test_the_largest_base_model_counts_for_the_memory_of_the_run(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Bench(write_recipe("lora, qlora")).prepared
    sizes = iter([500, 200])  # the base model with quantization none, and then with nf4
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=next(sizes)))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    monkeypatch.setattr(base, "load", lambda *_: None)
    monkeypatch.setattr(forecast, "_choose_concurrency", lambda *_: Concurrency(1, 1))
    monkeypatch.setattr(forecast, "in_processes", lambda functions, *_: [Expected(1.0, 600, 30)] * len(functions))
    assert forecast.forecast(prepared, 0.0, print).peak_bytes == 530


def test_tasks_take_as_long_as_the_busiest_job() -> None:
    assert makespan([3.0, 1.0, 1.0, 2.0], 1) == 7.0
    assert makespan([3.0, 1.0, 1.0, 2.0], 2) == 4.0
    assert makespan([], 2) == 0.0


def test_the_first_seed_runs_the_trials_and_failed_cells_take_no_time() -> None:
    cells = [
        MethodCell(label=label, method=label, quantization="none", seed=seed, learning_rate=1.0, trials=trials)
        for seed in (0, 1)
        for label, trials in (("lora", 3), ("failed", 0))
    ]
    assert list(_cell_seconds(cells, {"lora": Expected(2.0, 1, 1), "failed": "it broke"})) == [8.0, 2.0]
