"""Names of recipes, labels and methods: each is a folder on every system, and none reaches a terminal as it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from refusals import refused

from adapterzoo.errors import PluginError
from adapterzoo.files import is_device_name
from adapterzoo.methods.contract import Options
from adapterzoo.methods.peft import PeftMethod
from adapterzoo.methods.registry import _verify
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.recipe.schema import SAFE_NAME
from adapterzoo.terminal import clean, escape_markdown, safe

NO_FOLDER = (
    "../x", "..", ".", "/etc", "a/b", "a\\\\b", "C:x", "x.", ".x", "-x", "a b", " a", "é",
    "x\\x00", "x\\n", "x\\e[31m", "x\\u202e",
    "a" * 65, "", "~", "$HOME", "*", "x:y", "con", "NUL", "Aux.txt", "com1", "LPT9.tar.gz", "prn",
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.mark.parametrize("name", NO_FOLDER)
def test_a_name_that_is_no_folder_on_every_system_is_refused(
    name: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe(f'{{name: lora, label: "{name}"}}', name="recipe.yaml")
    refused(adapterzoo("check", recipe), "methods.0.label")
    text = recipe.read_text().replace("name: tiny", f'name: "{name}"').replace(f'label: "{name}"', "label: x")
    recipe.write_text(text)
    done = adapterzoo("run", recipe)
    refused(done, "'name'")
    assert not [sign for sign in done.output if unicodedata.category(sign) in ("Cc", "Cf") and sign != "\n"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


def test_a_device_of_windows_is_named(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]) -> None:
    refused(
        adapterzoo("check", write_recipe("{name: lora, label: con}")),
        "must be another name, because Windows keeps this one for a device, not 'con'",
    )
    assert SAFE_NAME.fullmatch("console")
    assert not is_device_name("console")


def test_a_recipe_for_data_with_such_a_name_can_be_run(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    for name in ("con", f"{'a' * 63}.b"):
        (tmp_path / f"{name}.csv").write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(20)))
        out = tmp_path / f"{name}.yaml"
        assert adapterzoo("init", tmp_path / f"{name}.csv", "--out", out).exit_code == 0
        assert load_recipe(out).name in ("my-data", "a" * 63)


def test_labels_that_differ_only_in_case_are_refused(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    methods = (
        "{name: lora, label: Mine}, {name: oft, label: mINE}, {name: ia3, label: BASE}, {name: ia3, label: Recipe.YAML}"
    )
    refused(
        adapterzoo("check", write_recipe(methods)),
        "the labels 'Mine' and 'mINE' differ only in case. Give one of the two another label.",
        "the label 'BASE' is taken by the untouched base or by a file.",
        "the label 'Recipe.YAML' is taken by the untouched base or by a file.",
    )


@pytest.mark.parametrize("name", ["con", "nul", "com1", "base", "../x", "x\x1b[31m", "X", "a.b"])
def test_a_method_with_such_a_name_is_left_out(name: str) -> None:
    class Named(PeftMethod[Options]):
        summary = "x"
        paper = "https://arxiv.org/abs/0"
        options = Options
        learning_rate = 1e-3
        learning_rate_source = "x"

    Named.name = name
    with pytest.raises(PluginError, match="name is") as caught:
        _verify(Named())
    assert "\x1b" not in str(caught.value)


def test_no_control_character_and_no_mark_that_reorders_text_reaches_a_terminal() -> None:
    reorder = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    invisible = "\u061c\u200b\u200e\u200f\u2060\u2064\ufeff\u00ad\U000e0041"
    for sign in map(chr, range(0x110000)):
        unsafe = unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs") or unicodedata.bidirectional(sign) in reorder
        if (unsafe and sign != "\t") or sign in invisible:
            assert sign not in clean(sign), hex(ord(sign))
    # Persian and emojis need signs that join letters.
    assert (
        clean("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645") == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )
    for show in (clean, escape_markdown, lambda text: safe(text).plain):
        assert not set("\x1b\x9b\u202e\u2066\u200f\ufeff") & set(show("a\x1b[31m\x9b\u202e\u2066\u200f\ufeffb"))
