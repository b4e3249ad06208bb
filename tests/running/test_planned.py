"""Check what ``adapterzoo run --dry-run`` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cells import Bench, StopError, stop_at_five
from click.testing import Result

from adapterzoo.results.store import CHECKPOINTS, SETTINGS, Store
from adapterzoo.running.worker import Worker


def test_a_dry_run_says_what_would_be_done_with_each_cell_and_changes_nothing(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, out = write_recipe("lora, ia3, adalora"), tmp_path / "o"
    sets = ("--set", "train.save_steps=2", "--set", "evaluate.base=false")
    planned = adapterzoo("run", recipe, *sets, "--out", out, "--dry-run")
    assert planned.exit_code == 0
    assert planned.stdout.count("it has no result yet") == 3
    assert not out.exists()
    assert adapterzoo("run", recipe, *sets, "--out", out, "-m", "lora").exit_code == 0
    bench = Bench(recipe, "train.save_steps=2", "evaluate.base=false")
    store, worker = Store(out), Worker(bench.prepared, Store(out), {})
    for label in ("ia3", "adalora"):
        folder = store.clear(label, 0, worker.results.depends_on(bench.cells[label])) / CHECKPOINTS
        with bench.wrapped(label, bench.load("none")) as model, pytest.raises(StopError):
            bench.train(label, model, folder, on_step=stop_at_five)
    (out / "adalora/seed-0" / SETTINGS).write_text("{}")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    words = " ".join(adapterzoo("run", recipe, *sets, "--out", out, "--dry-run").stdout.split())
    assert "lora 0 reuse it has a result" in words
    assert "ia3 0 go on from step 4 of 6" in words
    assert "adalora 0 begin its checkpoints are of other settings or of other versions of packages" in words
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
