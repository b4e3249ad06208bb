"""Check the record of what the methods can do, and that of a package that is not ours."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from third_party import METHOD

from adapterzoo.methods.capabilities import COLUMNS, FILE, UNDECLARED, capabilities, declared, made_with
from adapterzoo.methods.registry import Registry, registry

TRAINABLE = [
    name for name in registry() if not registry()[name].unavailable and registry().package(name) == "adapterzoo"
]


def test_everything_was_tried_with_every_method() -> None:
    """If this fails: ``adapterzoo plugin capabilities --all --to plugins/capabilities.json``."""
    content = json.loads(Path("plugins", FILE).read_text(encoding="utf-8"))
    assert sorted(content["methods"]) == sorted(TRAINABLE)
    for name, record in content["methods"].items():
        assert list(record) == list(COLUMNS), name
        assert all(value is True or (isinstance(value, str) and value) for value in record.values()), name


def test_what_was_seen_is_what_the_methods_declare() -> None:
    content = json.loads(Path("plugins", FILE).read_text(encoding="utf-8"))
    wrong = [
        f"{name}: {column} is declared {claim}, seen: {record[column]}"
        for name, record in content["methods"].items()
        for column, claim in declared(registry()[name]).items()
        if (record[column] is True) is not claim
    ]
    assert not wrong, "\n".join(wrong)


def test_the_record_says_with_what_it_was_made() -> None:
    made = made_with(registry().module("lora"))
    assert {"torch", "transformers", "peft", "date"} <= made.keys()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Return the folder of a package with a method of the name ``mine``."""
    name = f"third_party_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / name / "method.py").write_text(METHOD.replace("NAME", "mine"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / name


def zoo(module: str) -> Registry:
    found = Registry([EntryPoint("mine", module, "adapterzoo")])
    assert not found.broken
    return found


def write(package: Path, record: Any) -> None:
    content = {"date": "2026-11-27", "versions": {"torch": "9"}, "methods": {"mine": record}}
    (package / FILE).write_text(json.dumps(content), encoding="utf-8")


def test_a_package_brings_its_own_record(package: Path) -> None:
    write(package, {"none": True, "export": "too odd", "compile": True, "peft": True, "unheard-of": True, "nf4": 7})
    found = zoo(f"{package.name}.method")
    record = capabilities(found, "mine")
    assert (record["none"], record["export"], record["compile"]) == (True, "too odd", True)
    assert record["peft"] == UNDECLARED, "seen, but a recipe may use only what is declared"
    assert record["nf4"] is True, "what is no record counts for nothing, and the method declares nf4"
    assert "unheard-of" not in record
    assert "checkpointing" not in record
    assert made_with(found.module("mine")) == {"torch": "9", "date": "2026-11-27"}


@pytest.mark.parametrize("content", [None, "{", "[]", '{"methods": {"mine": 3}}', '{"methods": []}', "\xff"])
def test_without_a_record_the_methods_word_is_taken(package: Path, content: str | None) -> None:
    if content is not None:
        (package / FILE).write_bytes(content.encode("latin-1"))
    record = capabilities(zoo(f"{package.name}.method"), "mine")
    assert record["nf4"] is True
    assert record["merges-nf4"] == UNDECLARED
    assert "compile" not in record


def test_a_single_module_has_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside it in site-packages belongs to nobody."""
    (tmp_path / "third_party_alone.py").write_text(METHOD.replace("NAME", "mine"), encoding="utf-8")
    (tmp_path / FILE).write_text('{"date": "", "versions": {}, "methods": {"mine": {"compile": true}}}')
    monkeypatch.syspath_prepend(tmp_path)
    assert "compile" not in capabilities(zoo("third_party_alone"), "mine")
    assert "third_party_alone" in sys.modules
