"""Check the commands: what they import, print and return, in a pipe and in a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from forked import Forked

HEAVY = ("torch", "transformers", "peft", "datasets", "bitsandbytes", "accelerate")


@pytest.fixture
def finished(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path) -> Path:
    assert adapterzoo("run", write_recipe("lora", steps="1"), "--out", tmp_path / "o").exit_code == 0
    return tmp_path / "o"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["methods"],
        ["methods", "lora"],
        ["methods", "--json"],
        ["compare", "DIR"],
        ["init", "CSV"],
        ["schema"],
    ],
)
def test_commands_that_do_not_train_import_nothing_heavy(arguments: list[str], finished: Path, tiny_data: Path) -> None:
    code = (
        "import sys\nfrom adapterzoo.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    names = {"DIR": str(finished), "CSV": str(tiny_data)}
    command = [sys.executable, "-c", code, *(names.get(argument, argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=finished)
    assert done.stdout.endswith("HEAVY []\n"), done


def test_methods_lists_all_methods_and_shows_each(adapterzoo: Callable[..., Result]) -> None:
    listed = adapterzoo("methods").stdout
    described = json.loads(adapterzoo("methods", "--json").stdout)["methods"]
    trainable = [method for method in described if not method["unavailable"]]
    assert len(trainable) >= 35
    assert f"{len(trainable)} methods" in listed
    for method in described:
        name = method["name"]
        assert f"\n  {name}" in listed
        shown = adapterzoo("methods", name).stdout
        assert method["paper"] in shown
        assert method["learning_rate_source"] in shown
        assert method["unavailable"] is None or method["unavailable"] in listed
        for option, schema in method["options"].items():
            assert option in shown
            assert schema["description"], f"{name}.{option} has no description"
    assert re.search(r"^  lora +\+\+ +\+\+ +\+ ", listed, re.MULTILINE)
    assert listed.index("low-rank") < listed.index("  lora") < listed.index("orthogonal") < listed.index("  oft")


def test_methods_that_cannot_be_trained_are_refused_with_the_reason(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    for refused in (adapterzoo("check", write_recipe("xlora")), adapterzoo("run", write_recipe("lora"), "-m", "xlora")):
        assert refused.exit_code == 2
        assert "cannot be trained here: it mixes adapters that were trained before" in refused.stderr


def test_a_long_plan_is_not_cut_in_a_narrow_terminal(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("check", write_recipe("multitask-prompt-tuning, rslora, full"))
    assert "…" not in done.stdout
    assert re.search(r"^multitask-prompt-tuning +0 none +0.001 +1.36k", done.stdout, re.MULTILINE), done.stdout


def test_check_prints_the_plan_without_weights(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo(
        "check", write_recipe("lora, {name: lora, label: wide, r: 16}, qlora"), "--seed", "1", "--seed", "2"
    )
    assert done.exit_code == 0
    lines = {tuple(line.split()[:4]): line for line in done.stdout.splitlines()}
    assert "16.4k" in lines["lora", "lora", "1", "none"]
    assert "32.8k" in lines["wide", "lora", "2", "none"]
    assert ("qlora", "qlora", "2", "nf4") in lines
    assert "6 cells" in done.stdout
    assert "data: 24 train, 8 validation, 8 test rows" in done.stdout


def test_check_counts_the_parameters_that_run_trains(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    from adapterzoo.prepare.prepare import prepare
    from adapterzoo.recipe.reading import load_recipe

    recipe = write_recipe(steps="2")
    counted = prepare(load_recipe(recipe)).trainable
    adapterzoo("run", recipe, "--out", tmp_path / "o")
    rows = json.loads(adapterzoo("compare", tmp_path / "o", "--format", "json").stdout)["rows"]
    assert counted == {row["label"]: row["trainable_params"] for row in rows if row["method"]}


def test_piped_output_is_plain_lines(
    write_recipe: Callable[..., Path],
    adapterzoo_process: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    done = adapterzoo_process("run", write_recipe("lora", steps="2", max_new_tokens="auto"), "--out", tmp_path / "o")
    assert done.returncode == 0
    for stream in (done.stdout, done.stderr):
        assert "\x1b" not in stream
        assert "\r" not in stream
    assert done.stdout.startswith("method")
    messages = done.stderr.splitlines()
    assert messages[0].startswith("3 cells, results in ")
    assert "[1/3] lora: training" in messages
    assert any(
        line.startswith("[1/3] lora: step 2/2  loss ") and "tok/s" in line and "left" in line for line in messages
    )
    assert any(line.startswith("[1/3] lora: exact match ") and len(line) < 80 for line in messages)
    ours = ("[", "3 cells", "loading the base model", "time of all processes")
    assert all(line.startswith(ours) for line in messages), "a library printed something"


def test_a_terminal_gets_live_progress(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Run in a real pseudo-terminal of 100 columns."""
    main, side = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "adapterzoo",
        "run",
        str(write_recipe("lora", steps="150")),
        "--out",
        str(tmp_path / "o"),
    ]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    environment.pop("NO_COLOR", None)
    process = Forked(command, stdin=side, stdout=side, stderr=side, env=environment)
    os.close(side)
    seen = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    text = seen.decode()
    assert process.wait() == 0, text
    assert "\x1b[" in text
    assert re.search(r"step \d+/150  loss \d", text), "no step was shown during training"
    assert "tok/s" in text
    assert "[1/3] lora: exact match" in text


def test_stdout_has_only_the_requested_format(finished: Path, adapterzoo: Callable[..., Result]) -> None:
    for style in ("json", "csv", "markdown"):
        done = adapterzoo("compare", finished, "--format", style)
        assert done.exit_code == 0
        assert done.stderr == ""
    assert json.loads(adapterzoo("compare", finished, "--format", "json").stdout)["schema"] == 3
