"""In a notebook a comparison is a table, and a run shows its progress there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from adapterzoo.running import progress


def test_progress_is_shown_in_notebooks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(progress.notebook_reporter()) is progress.Reporter
    monkeypatch.setattr(progress, "Console", lambda **settings: Console(force_jupyter=True, **settings))
    assert isinstance(progress.notebook_reporter(), progress.LiveReporter)


def test_a_notebook_runs_compares_asks_and_merges(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from nbformat import v4

    recipe, out = str(write_recipe("lora, ia3")), str(tmp_path / "out")
    cells = [
        f"import adapterzoo\nadapterzoo.run({recipe!r}, {out!r})",
        f"adapterzoo.generate({out!r}, ['walk'], methods=['lora'], max_new_tokens=3)",
        f"adapterzoo.merge({out!r}, 'lora', {str(tmp_path / 'merged')!r})[0].metric",
        f"adapterzoo.export({out!r}, 'lora', {str(tmp_path / 'lora')!r}).rank",
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(notebook, timeout=300).execute()
    run, asked, merged, exported = [cell.outputs for cell in notebook.cells]
    shown = "".join(str(output.get("data", {}).get("text/html", "")) for output in run)
    assert "results in" in shown, "the progress"
    assert "<th>lora</th>" in run[-1]["data"]["text/html"]
    assert asked[-1]["data"]["text/plain"].startswith("{'lora': [")
    assert merged[-1]["data"]["text/plain"] == "'exact_match'"
    assert exported[-1]["data"]["text/plain"] == "8"
