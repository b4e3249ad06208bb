"""``make lint`` refuses code that runs what it reads: each snippet breaks one rule of ruff."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = {
    "exec(text)": "S102",
    "eval(text)": "S307",
    "import pickle\npickle.loads(text)": "S301",
    "import marshal\nmarshal.loads(text)": "S302",
    "import subprocess\nsubprocess.run(text, shell=True)": "S602",
    "import os\nos.system(text)": "S605",
    "import yaml\nyaml.load(text)": "S506",
    "import jinja2\njinja2.Environment()": "S701",
    "import torch\ntorch.load(text)": "TID251",
    "import numpy\nnumpy.load(text)": "TID251",
    "from importlib import import_module\nimport_module(text)": "TID251",
    "import importlib\nimportlib.import_module(text)": "TID251",
}


@pytest.mark.parametrize("name", ["adapterzoo/model/files.py", "plugins/lora.py"])
def test_every_snippet_is_refused(name: str) -> None:
    for code, rule in SNIPPETS.items():
        command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", "--stdin-filename", name, "-"]
        done = subprocess.run(command, input=f"text = input()\n{code}\n", capture_output=True, text=True)
        assert f" {rule} " in done.stdout, (code, done.stdout, done.stderr)


def test_the_files_that_may_use_a_pickle_say_why() -> None:
    settings = Path("pyproject.toml").read_text(encoding="utf-8")
    lines = [line for line in settings.splitlines() if "S301" in line and "=" in line and "select" not in line]
    assert [line.split('"')[1] for line in lines] == [
        "adapterzoo/tasks/batches.py",
        "adapterzoo/conformance/task_check.py",
        "adapterzoo/running/on_ray/handler.py",
        "tests/methods/test_own_modules.py",
        "tests/support/wrong/*",
    ]
