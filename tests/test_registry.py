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
    with_one_method = {path.replace("_", "-") for path in files - {"peft_types"}}
    assert with_one_method <= set(registry())
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
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; bases = ("int3",)'), "bases names ('int3',)"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; demands = "int3"'), "demands 'int3'"),
        (
            GOOD.replace("NAME", "mine").replace(
                "learning_rate, learning_rate_source = 1e-3,", "learning_rate_source ="
            ),
            "no 'learning_rate'",
        ),
        ("import sys\nsys.exit('bye')", "it called sys.exit('bye') while it was loaded"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; stands_for = 5'), "stands_for is 5, of type int"),
        (
            GOOD.replace("NAME", "mine").replace('"me"', '"me"; bases = (base for base in ("none",))'),
            "bases is <generator",
        ),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; resumes = {1, 2}'), "resumes is {1, 2}, of type set"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; unavailable = 5'), "unavailable is 5"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; size_option = ["r"]'), "size_option is ['r']"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; merges = [["none"]]'), "merges names [['none']]"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; learning_rate = 10**400'), "no rate above 0"),
        (
            GOOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    label: str = 'x'\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "has label, which mean something else",
        ),
        (
            GOOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    learning_rate: float = 1.0\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "has learning_rate",
        ),
        (
            GOOD.replace("NAME", "mine")
            .replace(
                "class Mine",
                "class O(Options):\n    init: __import__('pathlib').Path = __import__('pathlib').Path('w')\nclass Mine",
            )
            .replace('"p", Options', '"p", O'),
            "cannot be written in a recipe",
        ),
        (
            GOOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    f: __import__('typing').Callable = print\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "cannot be written in a recipe",
        ),
        (GOOD.replace("NAME", "hira"), "already the name of a method from adapterzoo"),
        (GOOD.replace("NAME", "adaption-prompt"), "already the name of a method from adapterzoo"),
        (GOOD.replace("NAME", "mine").replace("[Mine()]", "[Mine(), Mine()]"), "brings two methods named 'mine'"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; contract = 99'), "asks for contract 99"),
        (GOOD.replace("NAME", "mine").replace("1e-3", '"fast"'), "learning_rate is 'fast'"),
        (GOOD.replace("NAME", "mine").replace("1e-3", 'float("nan")'), "no rate above 0"),
        (GOOD.replace("NAME", "mine").replace('"s"', "7"), "summary is 7"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; bases = "none"'), "bases is 'none', of type str"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; bases = ()'), "bases is empty"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; merges = ("fp8",)'), "merges names ('fp8',)"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; size_option = "r"'), "size_option 'r' is not among"),
        (GOOD.replace("NAME", "mine").replace('"me"', '"me"; group = "magic"'), "group is 'magic'"),
        (
            GOOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    r: int\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "no default for r",
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


def test_of_two_strangers_with_one_name_the_second_is_left_out(strangers: Path) -> None:
    points = [plugin(name, strangers, GOOD.replace("NAME", "mine")) for name in ("b", "a")]
    zoo = Registry(points)
    assert zoo["mine"].__class__.__module__ == "stranger_a"
    (broken,) = zoo.broken
    assert (broken.plugin, "already the name" in broken.reason) == ("b", True)


def test_what_a_plugin_prints_stays_out_of_the_way(strangers: Path, capfd: pytest.CaptureFixture[str]) -> None:
    zoo = Registry(
        [
            plugin(
                "loud",
                strangers,
                "print('hello')\nimport os, sys\nos.write(1, b'raw')\nsys.stdout.close()\n"
                + GOOD.replace("NAME", "loud"),
            )
        ]
    )
    assert "loud" in zoo
    assert capfd.readouterr().out == ""
    print("still open")
    assert capfd.readouterr().out == "still open\n"


def test_a_fallback_gives_way_to_a_plugin_of_its_name() -> None:
    zoo = registry()
    assert zoo["hira"].fallback
    for name in ("lora", "vera", "prompt-tuning"):
        assert not zoo[name].fallback
    assert "adaption-prompt" not in zoo, "llama-adapter stands for it"


def test_third_party_plugins_can_be_switched_off(strangers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERZOO_NO_THIRD_PARTY", "1")
    zoo = Registry([*entry_points(group="adapterzoo"), plugin("good", strangers, GOOD.replace("NAME", "good"))])
    assert "good" not in zoo
    assert "lora" in zoo
    assert [broken.reason for broken in zoo.broken] == ["switched off by ADAPTERZOO_NO_THIRD_PARTY"]


def test_the_core_names_no_method() -> None:
    # Some methods are called by common words.
    names = set(registry()) - {"full", "shadow", "road", "miss"}
    pattern = re.compile(rf"\b({'|'.join(names)})\b", re.IGNORECASE)
    for path in Path(adapterzoo.__file__).parent.rglob("*.py"):
        assert not pattern.search(path.read_text()), (path, pattern.search(path.read_text()))
