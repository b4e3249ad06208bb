"""Data from strangers: scripts are never run, and what is in a cell stays text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from refusals import refused

SCRIPT = """\
import pathlib
import datasets

pathlib.Path({canary!r}).touch()


class Rows(datasets.GeneratorBasedBuilder):
    def _info(self):
        return datasets.DatasetInfo()
"""


def folder_with_a_script(folder: Path, script: str) -> tuple[str, str]:
    (folder / "rows.py").write_text(script)
    (folder / "rows.csv").write_text("verb,past\ngo,went\n")
    return "rows", "is a folder, but not a dataset that save_to_disk wrote. Name its files, like rows/*.csv."


def script(folder: Path, script: str) -> tuple[str, str]:
    (folder / "rows.py").write_text(script)
    return "rows/rows.py", "is a script, and scripts are never run."


def pattern_of_scripts(folder: Path, script: str) -> tuple[str, str]:
    (folder / "rows.py").write_text(script)
    return "rows/*", "is a script, and scripts are never run."


def saved_with_a_script(folder: Path, script: str) -> tuple[str, str]:
    """Return a folder that save_to_disk seems to have written, whose files name code and files elsewhere."""
    (folder / "rows.py").write_text(script)
    (folder / "dataset_infos.json").write_text(json.dumps({"default": {"builder_name": "rows"}}))
    info = {"builder_name": "rows", "features": {"verb": {"_type": "rows.Rows", "dtype": "string"}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    state = {"_data_files": [{"filename": "../rows.pkl"}], "_fingerprint": "x", "_format_type": "rows", "_split": None}
    (folder / "state.json").write_text(json.dumps({**state, "_format_columns": None, "_format_kwargs": {}}))
    return "rows", "cannot be read"


def pickle(folder: Path, script: str) -> tuple[str, str]:
    (folder / "rows.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    return "rows/rows.pkl", "is not of a known kind."


@pytest.mark.parametrize(
    "craft",
    [folder_with_a_script, script, pattern_of_scripts, saved_with_a_script, pickle],
    ids=lambda craft: craft.__name__,
)
@pytest.mark.usefixtures("no_weights")
def test_data_that_names_code_is_refused(
    craft: Callable[[Path, str], tuple[str, str]], write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "rows").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "rows")
    source, expected = craft(tmp_path / "rows", SCRIPT.format(canary=str(canary)))
    refused(adapterzoo("check", write_recipe("lora"), "--set", f"data.source={source}"), expected)
