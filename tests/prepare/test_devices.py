"""Check that what keeps several processes from training a cell together is said before weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_a_deepspeed_that_cannot_be_imported_is_refused_with_its_error(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    no_weights: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "broken" / "deepspeed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('no compiler for this machine')")
    monkeypatch.syspath_prepend(str(package.parent))
    done = adapterzoo("check", write_recipe("lora"), "--set", "train.devices=2", "--set", "train.sharding=zero2")
    assert done.exit_code == 2
    problem = (
        "train.sharding: is zero2, which needs DeepSpeed, and it cannot be imported: OSError: no compiler for this"
    )
    assert problem in " ".join(done.stderr.split())
