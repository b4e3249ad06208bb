"""A model's fingerprint: it covers all that transformers reads, and unchanged files are not read again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from adapterzoo import digests
from adapterzoo.model.files import fingerprint


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the tiny model, and use an empty cache."""
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def flip(path: Path, index: int | None = None) -> None:
    """Change one byte, in the middle by default, and keep the size and the time of the file."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2 if index is None else index] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "name",
    [
        "large.safetensors",
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ],
)
def test_a_changed_byte_in_any_file_changes_the_fingerprint(name: str, model: Path) -> None:
    (model / "large.safetensors").write_bytes(bytes(2**22))
    before = fingerprint(str(model), None)
    assert fingerprint(str(model), None) == before
    flip(model / name)
    assert fingerprint(str(model), None) != before


def test_files_of_subfolders_count_where_transformers_reads_them(model: Path) -> None:
    before = fingerprint(str(model), None)
    (model / "original").mkdir()
    (model / "original" / "consolidated.pth").write_bytes(b"x")
    (model / ".cache").write_text("x")
    (model / "README.md").write_text("corrected")
    assert fingerprint(str(model), None) == before
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "parts/1.safetensors"}}')
    (model / "parts").mkdir()
    (model / "parts" / "1.safetensors").write_text("x")
    with_parts = fingerprint(str(model), None)
    assert with_parts != before
    flip(model / "parts" / "1.safetensors")
    assert fingerprint(str(model), None) != with_parts


def test_an_unchanged_file_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = digests.file_digest

    def counting(path: Path) -> str:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(digests, "file_digest", counting)
    monkeypatch.setattr(digests, "SETTLED_NANOSECONDS", 0)
    first = fingerprint(str(model), None)
    assert "model.safetensors" in read
    read.clear()
    assert fingerprint(str(model), None) == first
    assert read == []
    flip(model / "config.json")
    assert fingerprint(str(model), None) != first
    assert read == ["config.json"]
    # If the cache is damaged, the files are read again.
    flip(digests.cache_folder() / digests.CACHE)
    read.clear()
    fingerprint(str(model), None)
    assert "model.safetensors" in read


def test_a_file_that_was_changed_just_now_is_read_again(model: Path) -> None:
    fingerprint(str(model), None)
    assert time.time_ns() - (model / "config.json").stat().st_ctime_ns < digests.SETTLED_NANOSECONDS
    assert not (digests.cache_folder() / digests.CACHE).exists()


def test_a_changed_template_between_two_runs_is_another_model(
    model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    arguments = ("run", write_recipe("ia3", steps="1"), "--set", f"model.name={model}", "--out", tmp_path / "o")
    assert adapterzoo(*arguments).exit_code == 0
    answered = adapterzoo("generate", tmp_path / "o", "-m", "ia3", "--prompt", "go", "--max-new-tokens", "1")
    assert answered.exit_code == 0, answered.stderr
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + "{# other #}")
    again = adapterzoo(*arguments)
    assert again.exit_code == 2
    assert "holds the results of another recipe (model.weights:" in again.stderr
    for command in (("generate", "--prompt", "go"), ("merge", "--to", str(tmp_path / "merged"))):
        done = adapterzoo(command[0], tmp_path / "o", "-m", "ia3", *command[1:])
        assert done.exit_code == 2
        assert "its files are not those that the adapter was trained on" in " ".join(done.stderr.split())
