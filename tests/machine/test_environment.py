"""Check the versions of packages that a result keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adapterzoo.machine.environment import version_of


def test_the_version_of_an_editable_install_changes_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an author changes a method between two seeds, the two results must not become one row."""
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[adapterzoo]\nmine = mine_pkg.method\n")
    source = tmp_path / "mine_pkg" / "method.py"
    source.parent.mkdir()
    (source.parent / "__init__.py").touch()
    source.write_text("R = 8\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert version_of("mine") == "mine 1.0"
    (installed / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    before = version_of("mine")
    assert before.startswith("mine 1.0+")
    source.write_text("R = 4\n")
    assert version_of("mine") != before
