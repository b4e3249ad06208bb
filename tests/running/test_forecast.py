"""``check --probe``: what each cell and the whole run will take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from adapterzoo.prepare.plan import MethodCell
from adapterzoo.running import forecast
from adapterzoo.running.cell import adapt
from adapterzoo.running.forecast import Expected, _cell_seconds, makespan


def test_every_cell_and_the_run_have_a_time_and_a_memory(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that ends its process has neither, and keeps the others from nothing."""

    def ends_with_ia3(prepared: Any, cell: MethodCell, *others: Any) -> Any:
        return os._exit(3) if cell.label == "ia3" else adapt(prepared, cell, *others)

    monkeypatch.setattr(forecast, "adapt", ends_with_ia3)
    recipe = write_recipe("lora, qlora, ia3", "seeds: [0, 1]\n")
    done = adapterzoo("check", recipe, "--probe", "--set", "evaluate.general_text=shipped")
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split() for line in done.output.splitlines() if line.strip()}
    for label in ("base", "lora", "qlora"):
        assert re.fullmatch(r"\d+:\d\d", rows[label][-2]), "time"
        assert rows[label][-1].endswith("MB") or rows[label][-1].endswith("GB"), "memory"
    assert rows["ia3"][-2:] == ["failed", "-"]
    (why,) = (line for line in done.output.splitlines() if line.startswith("! ia3"))
    assert "exit code 3" in why
    assert rows["expected:"][2:6] == ["for", "the", "whole", "run,"]


def test_a_run_takes_as_long_as_its_busiest_job() -> None:
    assert makespan([3.0, 1.0, 1.0, 2.0], 1) == 7.0
    assert makespan([3.0, 1.0, 1.0, 2.0], 2) == 4.0
    assert makespan([], 2) == 0.0


def test_trials_are_of_the_first_seed_and_cells_that_failed_take_no_time() -> None:
    cells = [
        MethodCell(label=label, method=label, quantization="none", seed=seed, learning_rate=1.0, trials=3 * (label == "lora")) for seed in (0, 1) for label in ("lora", "x")
    ]
    assert list(_cell_seconds(cells, {"lora": Expected(2.0, 1, 1), "x": "it broke"})) == [8.0, 2.0]
