"""The cache of token ids: rows are tokenized once, and again after any change to what decides on their tokens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import DAMAGES

from adapterzoo import digests
from adapterzoo.prepare.prepare import prepare
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.tokens.encode import Encoder
from adapterzoo.tokens.encoded import Encoded

SHORT = ("data.max_length=31", "data.truncate=drop")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Encoded, int, list[str]]]:
    """Return a function that prepares a recipe: the encoded rows, how many were tokenized, and the messages."""
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path / "cache"))
    tokenized = []
    encode = Encoder.encode

    def counting(self: Encoder, row: object) -> object:
        tokenized.append(row)
        return encode(self, row)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "encode", counting)

    def run(recipe: Path, *overrides: str) -> tuple[Encoded, int, list[str]]:
        tokenized.clear()
        messages: list[str] = []
        rows = prepare(load_recipe(recipe, overrides), say=messages.append).encoded
        return rows, len(tokenized), messages

    return run


def test_the_second_run_tokenizes_nothing(
    encoded: Callable[..., tuple[Encoded, int, list[str]]], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe("lora")
    first, count, messages = encoded(recipe, *SHORT)
    assert count == 40
    assert any("dropped: max_length = 31" in line for line in messages)
    again, count, same_messages = encoded(recipe, *SHORT)
    assert count == 0
    assert same_messages == messages
    for name in ("train", "validation", "test"):
        assert getattr(again, name) == getattr(first, name)
    assert (again.end_ids, again.pad_id, again.fingerprint) == (first.end_ids, first.pad_id, first.fingerprint)
    # Other methods and training settings use the same tokens.
    assert encoded(write_recipe("ia3", steps="9"), *SHORT)[1] == 0


def test_a_changed_byte_or_setting_needs_new_tokens(
    encoded: Callable[..., tuple[Encoded, int, list[str]]], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe("lora")
    path = Path(load_recipe(recipe).data.sources[0])
    own = tmp_path / "own.csv"
    own.write_bytes(path.read_bytes())
    assert encoded(recipe)[1] == 40
    assert encoded(recipe, f"data.source={own}")[1] == 0, "the same rows in another file"
    own.write_bytes(path.read_bytes().replace(b"walked", b"walkde"))
    assert encoded(recipe, f"data.source={own}")[1] == 40
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    for change in ("data.system=S", "data.loss_on=all", f"data.chat_template={template}", "model.padding_token=<p>"):
        assert encoded(recipe, change)[1] == 40, change
        assert encoded(recipe, change)[1] == 0, change
    template.write_text("{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}")
    assert encoded(recipe, f"data.chat_template={template}")[1] == 40


def test_a_damaged_cache_is_not_used(
    encoded: Callable[..., tuple[Encoded, int, list[str]]], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe("lora")
    first, _, _ = encoded(recipe)
    (path,) = (tmp_path / "cache" / "tokens").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    again, count, _ = encoded(recipe)
    assert count == 40
    assert again.train == first.train
    assert encoded(recipe)[1] == 0
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file in place of the folder")
    assert encoded(recipe)[1] == 40


@pytest.mark.parametrize("kind", ["emptied", "filled with zeros", "written twice", "a folder", "deleted"])
def test_a_damaged_file_of_the_cache_is_made_again(
    kind: str, encoded: Callable[..., tuple[Encoded, int, list[str]]], write_recipe: Callable[..., Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe, cache = write_recipe("lora"), tmp_path / "cache"
    monkeypatch.setattr(digests, "SETTLED_NANOSECONDS", 0)
    first, _, _ = encoded(recipe)
    (path,) = (cache / "tokens").glob("*.parquet")
    whole = path.read_bytes()
    DAMAGES[kind](path)
    DAMAGES[kind](cache / digests.CACHE)
    again, count, _ = encoded(recipe)
    assert count == 40
    assert (again.train, again.test) == (first.train, first.test)
    assert [file.read_bytes() for file in (cache / "tokens").iterdir()] == [whole]
    assert json.loads((cache / digests.CACHE).read_text())["entries"]
    assert encoded(recipe)[1] == 0
    assert not list(cache.rglob("*.new"))


def test_what_killed_processes_left_in_the_caches_is_removed(
    encoded: Callable[..., tuple[Encoded, int, list[str]]], write_recipe: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Not at once: another process may be writing its file."""
    monkeypatch.setattr(digests, "SETTLED_NANOSECONDS", 0)
    now = time.time()
    (tmp_path / "cache" / "tokens").mkdir(parents=True)
    for folder in (tmp_path / "cache" / "tokens", tmp_path / "cache"):
        for name, hours in (("old.new", 25), ("young.new", 1)):
            (folder / name).write_text("half of a file")
            os.utime(folder / name, (now - 3600 * hours,) * 2)
    encoded(write_recipe("lora"))
    assert (tmp_path / "cache" / digests.CACHE).is_file()
    for folder in (tmp_path / "cache" / "tokens", tmp_path / "cache"):
        assert [path.name for path in folder.glob("*.new")] == ["young.new"]


def test_old_files_are_removed(
    encoded: Callable[..., tuple[Encoded, int, list[str]]], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from adapterzoo.tokens import cache

    for number in range(cache.MAX_FILES + 3):
        encoded(write_recipe("lora"), f"data.system=S{number}")
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == cache.MAX_FILES


def test_a_flipped_bit_anywhere_in_the_cache_is_noticed(
    encoded: Callable[..., tuple[Encoded, int, list[str]]], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe("lora")
    first, _, _ = encoded(recipe)
    (path,) = (tmp_path / "cache" / "tokens").glob("*.parquet")
    whole = path.read_bytes()
    for index in range(0, len(whole), len(whole) // 21):
        damaged = bytearray(whole)
        damaged[index] ^= 4
        path.write_bytes(damaged)
        again, count, _ = encoded(recipe)
        assert count == 40, index
        assert (again.train, again.test) == (first.train, first.test)
    assert [file.read_bytes() for file in path.parent.glob("*.parquet")] == [whole], "damaged files are removed"
