from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

import adapterzoo
from adapterzoo.registry import Registry, registry


def plugin(name: str, folder: Path, body: str) -> EntryPoint:
    """An entry point whose module is a file; the folder is on the path."""
    (folder / f"stranger_{name}.py").write_text(body)
    return EntryPoint(name, f"stranger_{name}", "adapterzoo")


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("stranger_")]:
        del sys.modules[name]


GOOD = """
from adapterzoo import Method, Options, hookimpl
class Mine(Method):
    name, summary, paper, options = "NAME", "s", "p", Options
    learning_rate, learning_rate_source = 1e-3, "me"
@hookimpl
def adapterzoo_methods():
    return [Mine()]
"""


def test_every_plugin_file_is_an_entry_point_and_is_found() -> None:
    files = {path.stem for path in Path("plugins").glob("*.py") if not path.stem.startswith("_")}
    assert files == {
        point.name for point in entry_points(group="adapterzoo") if point.value.startswith("adapterzoo_plugins")
    }
    assert files <= set(registry())
    assert not [broken for broken in registry().broken if broken.package == "adapterzoo"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('on import')", "RuntimeError: on import"),
        ("def adapterzoo_methods(): return []", "is @hookimpl missing?"),
        (
            "from adapterzoo import hookimpl\n@hookimpl\ndef adapterzoo_methods(): raise ValueError('in the hook')",
            "in the hook",
        ),
        ("from adapterzoo import hookimpl\n@hookimpl\ndef adapterzoo_methods(): return 3", "not a list of methods"),
        (
            "from adapterzoo import hookimpl\n@hookimpl\ndef adapterzoo_methods(): return ['lora']",
            "which is no adapterzoo.Method",
        ),
        (GOOD.replace("NAME", "lora"), "already the name of a method from adapterzoo"),
        (GOOD.replace("NAME", "../x"), "only lower-case letters"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; bases = ("int3",)'), "bases names int3"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; demands = "int3"'), "demands 'int3'"),
        (
            GOOD.replace("NAME", "mine").replace(
                "learning_rate, learning_rate_source = 1e-3,", "learning_rate_source ="
            ),
            "no 'learning_rate'",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_left_out(strangers: Path, body: str, reason: str) -> None:
    good = plugin("good", strangers, GOOD.replace("NAME", "good"))
    zoo = Registry([*entry_points(group="adapterzoo"), plugin("bad", strangers, body), good])
    (broken,) = zoo.broken
    assert broken.plugin == "bad"
    assert reason in broken.reason
    assert {"lora", "good"} <= set(zoo)


def test_the_core_names_no_method() -> None:
    names = re.compile(rf"\b({'|'.join(registry())})\b", re.IGNORECASE)
    for path in Path(adapterzoo.__file__).parent.rglob("*.py"):
        assert not names.search(path.read_text()), path
