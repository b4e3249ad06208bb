from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from third_party import METHOD, plugin

import adapterzoo
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.metrics.registry import metrics
from adapterzoo.results.identity import DEFAULT_TASK
from adapterzoo.tasks.registry import tasks


def test_every_plugin_file_is_an_entry_point_and_is_found() -> None:
    files = {path.stem for path in Path("plugins").glob("*.py") if not path.stem.startswith("_")}
    for folder, kind in (("tasks", "task"), ("quantizations", "quantization")):
        paths = [path for path in Path("plugins", folder).glob("*.py") if not path.stem.startswith("_")]
        files |= {f"{kind}_{path.stem}" for path in paths}
    assert files == {
        point.name for point in entry_points(group="adapterzoo") if point.value.startswith("adapterzoo_plugins")
    }
    method_names = {file.replace("_", "-") for file in files - {"peft_types"}}
    assert {name for name in method_names if not name.startswith(("task-", "quantization-"))} <= set(registry())
    assert {name.removeprefix("task-").replace("-", "_") for name in method_names if name.startswith("task-")} == {
        name for name in tasks() if tasks().package(name) == "adapterzoo"
    }
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
            "which is not an adapterzoo.Method",
        ),
        (METHOD.replace("NAME", "lora"), "already the name of a method from adapterzoo"),
        (METHOD.replace("NAME", "../x"), "only lower-case letters"),
        (METHOD.replace("NAME", "old").replace('"me"', '"me"; demands = "nf4"'), "calls 'requires_quantization'"),
        (
            METHOD.replace("NAME", "mine").replace('"me"', '"me"; quantizations = ("int3",)'),
            "quantizations names ('int3',)",
        ),
        (
            METHOD.replace("NAME", "mine").replace('"me"', '"me"; requires_quantization = "int3"'),
            "requires_quantization 'int3'",
        ),
        (
            METHOD.replace("NAME", "mine").replace(
                "learning_rate, learning_rate_source = 1e-3,", "learning_rate_source ="
            ),
            "no 'learning_rate'",
        ),
        ("import sys\nsys.exit('bye')", "it called sys.exit('bye') while it was loaded"),
        ("import os\nos._exit(0)", "it called os._exit(0) while it was loaded"),
        ("raise KeyboardInterrupt", "it raised KeyboardInterrupt while it was loaded"),
        *(
            (METHOD.replace("NAME", "mine").replace('"me"', f'"me"; contract = {contract}'), "write a whole number")
            for contract in ("'1'", "0", "-1", "True")
        ),
        (METHOD.replace("NAME", "mine").replace('"s"', '"s" * 1000'), "summary has 1000 characters"),
        (METHOD.replace("NAME", "mine").replace('"s"', r'"s\ns"'), "one line of at most 200 is wanted"),
        (METHOD.replace("NAME", "base"), "that is the label of the untouched base"),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; stands_for = 5'), "stands_for is 5, of type int"),
        (
            METHOD.replace("NAME", "mine").replace('"me"', '"me"; quantizations = (base for base in ("none",))'),
            "quantizations is <generator",
        ),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; resumes = {1, 2}'), "resumes is {1, 2}, of type set"),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; unavailable = 5'), "unavailable is 5"),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; size_option = ["r"]'), "size_option is ['r']"),
        (
            METHOD.replace("NAME", "mine").replace('"me"', '"me"; mergeable_into = [["none"]]'),
            "mergeable_into names [['none']]",
        ),
        (
            METHOD.replace("NAME", "mine").replace('"me"', '"me"; learning_rate = 10**400'),
            "is not a number between 0 and a million",
        ),
        (
            METHOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    label: str = 'x'\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "has label, which means something else in a recipe",
        ),
        (
            METHOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    learning_rate: float = 1.0\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "has learning_rate",
        ),
        (
            METHOD.replace("NAME", "mine")
            .replace(
                "class Mine",
                "class O(Options):\n    init: __import__('pathlib').Path = __import__('pathlib').Path('w')\nclass Mine",
            )
            .replace('"p", Options', '"p", O'),
            "cannot be written in a recipe",
        ),
        (
            METHOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    f: __import__('typing').Callable = print\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "cannot be written in a recipe",
        ),
        (METHOD.replace("NAME", "hira"), "already the name of a method from adapterzoo"),
        (METHOD.replace("NAME", "adaption-prompt"), "already the name of a method from adapterzoo"),
        (METHOD.replace("NAME", "mine").replace("[Mine()]", "[Mine(), Mine()]"), "it has two methods named 'mine'"),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; contract = 99'), "asks for contract 99"),
        (METHOD.replace("NAME", "mine").replace("1e-3", '"fast"'), "learning_rate is 'fast'"),
        (
            METHOD.replace("NAME", "mine").replace("1e-3", 'float("nan")'),
            "which is not a number between 0 and a million",
        ),
        (METHOD.replace("NAME", "mine").replace('"s"', "7"), "summary is 7"),
        (
            METHOD.replace("NAME", "mine").replace('"me"', '"me"; quantizations = "none"'),
            "quantizations is 'none', of type str",
        ),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; quantizations = ()'), "quantizations is empty"),
        (
            METHOD.replace("NAME", "mine").replace('"me"', '"me"; mergeable_into = ("fp8",)'),
            "mergeable_into names ('fp8',)",
        ),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; size_option = "r"'), "size_option 'r' is not among"),
        (METHOD.replace("NAME", "mine").replace('"me"', '"me"; group = "magic"'), "group is 'magic'"),
        (
            METHOD.replace("NAME", "mine")
            .replace("class Mine", "class O(Options):\n    r: int\nclass Mine")
            .replace('"p", Options', '"p", O'),
            "no default for r",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_left_out(plugin_folder: Path, body: str, reason: str) -> None:
    good = plugin("good", plugin_folder, METHOD.replace("NAME", "good"))
    zoo = Registry([*entry_points(group="adapterzoo"), plugin("bad", plugin_folder, body), good])
    (broken,) = zoo.broken
    assert broken.plugin == "bad"
    assert reason in broken.reason
    assert {"lora", "good"} <= set(zoo)


def test_a_plugin_with_another_name_than_its_method_is_explained(plugin_folder: Path) -> None:
    zoo = Registry([plugin("package", plugin_folder, METHOD.replace("NAME", "mine"))])
    assert zoo.hint("package") == "The plugin 'package' has the name mine for it: write that."


def test_a_slow_plugin_is_named(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("adapterzoo.entry_points.SLOW_SECONDS", 0.0)
    Registry([plugin("slow", plugin_folder, METHOD.replace("NAME", "mine"))])
    assert "the plugin slow (from ?) took" in capsys.readouterr().err


def test_the_second_of_two_third_party_methods_with_one_name_is_left_out(plugin_folder: Path) -> None:
    points = [plugin(name, plugin_folder, METHOD.replace("NAME", "mine")) for name in ("b", "a")]
    zoo = Registry(points)
    assert zoo["mine"].__class__.__module__ == "third_party_a"
    (broken,) = zoo.broken
    assert (broken.plugin, "already the name" in broken.reason) == ("b", True)


def test_a_plugin_cannot_print_to_stdout_or_close_it(plugin_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    zoo = Registry(
        [
            plugin(
                "loud",
                plugin_folder,
                "print('hello')\nimport os, sys\nos.write(1, b'raw')\nsys.stdout.close()\n"
                + METHOD.replace("NAME", "loud"),
            )
        ]
    )
    assert "loud" in zoo
    assert capfd.readouterr().out == ""
    print("still open")
    assert capfd.readouterr().out == "still open\n"


def test_a_plugin_replaces_a_fallback_of_its_name() -> None:
    zoo = registry()
    assert zoo["hira"].fallback
    for name in ("lora", "vera", "prompt-tuning"):
        assert not zoo[name].fallback
    assert "adaption-prompt" not in zoo, "llama-adapter replaces it"


def test_third_party_plugins_can_be_switched_off(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERZOO_NO_THIRD_PARTY", "1")
    zoo = Registry([*entry_points(group="adapterzoo"), plugin("good", plugin_folder, METHOD.replace("NAME", "good"))])
    assert "good" not in zoo
    assert "lora" in zoo
    assert [broken.reason for broken in zoo.broken] == ["switched off by ADAPTERZOO_NO_THIRD_PARTY"]


def test_the_core_names_no_method_no_metric_and_no_task() -> None:
    # Leave out methods whose names are common words. Search method names in any case, metric names in lower case only.
    methods = set(registry()) - {"full", "shadow", "road", "miss"}
    scores = {name for metric in metrics().values() for name in (metric.name, *metric.columns)}
    patterns = (
        re.compile(rf"\b({'|'.join(map(re.escape, methods))})\b", re.IGNORECASE),
        re.compile(rf"\b({'|'.join(map(re.escape, scores))})\b"),
        # The names of tasks are common words, so look for them in quotes only; a recipe has the default task.
        re.compile(rf"""["'`]({"|".join(map(re.escape, set(tasks()) - {DEFAULT_TASK}))})["'`]"""),
    )
    core = Path(adapterzoo.__file__).parent
    # These files write LoRA as a form that servers load, for adapters of any method.
    forms = ("exporting.py", "servable.py", "updates.py", "server_forms.py", "converting.py")
    of_form = {core / "cli" / "export.py", *(core / "adapters" / name for name in forms)}
    for path in core.rglob("*.py"):
        if path.parent != core / "metrics" / "built_in":
            for pattern in patterns[1:] if path in of_form else patterns:
                assert not pattern.search(path.read_text()), (path, pattern.search(path.read_text()))


def test_the_working_directory_is_restored_after_a_plugin_changed_it(plugin_folder: Path) -> None:
    before = Path.cwd()
    zoo = Registry([plugin("moves", plugin_folder, "import os; os.chdir('/')\n" + METHOD.replace("NAME", "moves"))])
    assert "moves" in zoo
    assert Path.cwd() == before
