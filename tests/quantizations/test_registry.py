"""Find quantizations of installed packages, refuse what cannot be used, and tell which methods train on which."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from refusals import refused
from third_party import METHOD, plugin

from adapterzoo.methods import trainable
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.methods.trainable import trains_on, verdict, why_not_trainable
from adapterzoo.quantizations.registry import Quantizations, quantizations

MINE = """
from adapterzoo import Quantization, hookimpl
class Mine(Quantization):
    name, summary, bits = "mine", "s", 4
@hookimpl
def adapterzoo_quantizations():
    return [Mine()]
"""


def installed(folder: Path, body: str) -> Quantizations:
    return Quantizations([*entry_points(group="adapterzoo"), plugin("mine", folder, body)])


def test_the_quantizations_of_an_installed_package_are_found(plugin_folder: Path) -> None:
    found = installed(plugin_folder, MINE)
    assert {"none", "int8", "nf4", "fp4", "torchao-int8", "hqq4", "mine"} <= {*found}
    assert not found.broken
    assert (found.package("nf4"), found.package("mine")) == ("adapterzoo", "?")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"mine"', '"nf4"', "'nf4' is already the name of a quantization from adapterzoo"),
        ('"mine"', '"Mine!"', "only lower-case letters"),
        ("bits", "bytes_per_parameter", "has no 'bits'"),
        ("4", "'four'", "bits is 'four', of type str"),
        ('bits = "mine", "s", 4', 'bits, packages = "mine", "s", 4, "torch"', "packages is 'torch', of type str"),
        ("[Mine()]", "[3]", "which is not an adapterzoo.Quantization"),
        ("@hookimpl", "", "is @hookimpl missing?"),
    ],
)
def test_a_broken_quantization_is_left_out_with_the_reason(
    old: str, new: str, reason: str, plugin_folder: Path
) -> None:
    found = installed(plugin_folder, MINE.replace(old, new, 1))
    assert [broken.plugin for broken in found.broken] == ["mine"]
    assert reason in found.broken[0].reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nf5", "'model.quantization' is 'nf5'; it can be fp4, hqq2"),
        ("nf5", "Did you mean 'nf4'?"),
        (
            "torchao-int8",
            "the quantization torchao-int8 needs torchao, which is not installed. Try: pip install 'adapt",
        ),
        ("hqq4", "needs hqq, which is not installed. Try: pip install 'adapterzoo[hqq]'"),
        ("torchao-int4", "needs a GPU and mslk: torchao has no 4-bit layout for CPUs. Choose nf4, fp4 or hqq4"),
    ],
)
def test_what_cannot_be_used_here_is_refused_with_the_reason(
    name: str,
    words: str,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    no_weights: None,
) -> None:
    absent = ("torchao", "hqq", "mslk")
    monkeypatch.setattr("adapterzoo.quantizations.contract.find_spec", lambda name: None if name in absent else name)
    refused(adapterzoo("check", write_recipe("lora"), "--set", f"model.quantization={name}"), words)


@pytest.fixture
def zoo(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], Registry]]:
    """Return a function that makes a zoo with a method ``mine``, in a package with records of quantizations."""
    folder = plugin_folder / "third_party_folder"
    folder.mkdir()

    def make(records: dict[str, Any]) -> Registry:
        (folder / "__init__.py").write_text(METHOD.replace("NAME", "mine"), encoding="utf-8")
        (folder / trainable.FILE).write_text(json.dumps(records), encoding="utf-8")
        point = plugin("folder", plugin_folder, "")
        (plugin_folder / "third_party_folder.py").unlink()
        return Registry([*entry_points(group="adapterzoo"), point])

    trainable._file.cache_clear()
    yield make
    trainable._file.cache_clear()


def test_a_method_trains_on_what_it_declares_and_on_what_was_seen(zoo: Callable[[dict[str, Any]], Registry]) -> None:
    seen = {"date": "2026-11-27", "versions": {}, "methods": {"mine": True}}
    found = zoo({"hqq4": seen, "hqq2": {**seen, "methods": {"mine": "it does not learn"}}})
    assert trains_on(found, "mine") == ["none", "int8", "nf4", "fp4", "hqq3", "hqq4", "hqq8"]
    assert why_not_trainable(found, "mine", "hqq4") is None
    what, hint = why_not_trainable(found, "mine", "hqq2") or ("", "")
    assert what == "cannot train on a base with quantization hqq2: it does not learn."
    assert hint == "It trains on: none, int8, nf4. And on: fp4, hqq3, hqq4, hqq8."
    what, _ = why_not_trainable(found, "mine", "torchao-int8") or ("", "")
    assert what == "was never tried on a base with quantization torchao-int8."
    assert verdict(found, "mine", "mxfp4") is True, "its layers are ordinary ones"


def test_a_file_that_holds_no_records_counts_for_nothing(zoo: Callable[[dict[str, Any]], Registry]) -> None:
    assert verdict(zoo({"hqq4": {"methods": {"mine": True}}}), "mine", "hqq4") is None


def test_a_method_with_a_quantization_of_its_own_trains_on_no_other() -> None:
    assert verdict(registry(), "qlora", "hqq4") == "its base always has the quantization nf4"
    assert trains_on(registry(), "qlora") == ["nf4"]


def test_every_record_is_of_an_installed_quantization_and_of_installed_methods() -> None:
    for module in {quantizations().module(name) for name in quantizations()}:
        for name, record in trainable.records(module).items():
            assert name in quantizations()
            assert record["methods"].keys() <= {*registry()}


def test_the_command_lists_quantizations_and_says_which_methods_train(adapterzoo: Callable[..., Result]) -> None:
    listed = adapterzoo("quantizations")
    assert listed.exit_code == 0
    assert "nf4" in listed.stdout
    one = adapterzoo("quantizations", "nf4")
    lines = {line.split()[0]: line.split()[1:] for line in one.stdout.splitlines() if line.strip()}
    assert lines["lora"] == ["yes"]
    assert lines["full"] == ["no"]
    described = json.loads(adapterzoo("quantizations", "fp4", "--json").stdout)
    assert (described["bits"], described["methods"]["lora"]) == (4, True)
    refused(adapterzoo("quantizations", "nf5"), "unknown quantization. Did you mean 'nf4'?")
    where = adapterzoo("methods", "--where", "fp4,!nf4").stdout
    assert "0 methods" in where, "they have the same layers"
