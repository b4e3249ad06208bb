"""Check training on the real model; this takes minutes, so ``make test-real`` runs it and ``make test`` does not."""

from __future__ import annotations

import argparse
import ast
import calendar
import csv
import difflib
import inspect
import json
import pathlib
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import assert_same
from safetensors.torch import load_file

from adapterzoo.model.dtype import SLOW, slowness

pytestmark = pytest.mark.real

QUICKSTART = "recipes/quickstart.yaml"
SHORT = (
    "train.steps=4",
    "evaluate.base=false",
    "evaluate.metrics=[loss]",
    "evaluate.general_text=null",
    "data.split={train: 0.2, validation: 0, test: 0.02}",
)


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def adapter(out: Path, label: str) -> dict[str, object]:
    return load_file(out / label / "seed-0" / "adapter" / "adapter_model.safetensors")


def test_several_adapters_are_those_of_a_fresh_process(
    adapterzoo_process: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    labels = ("lora", "qlora", "adalora")
    methods = [part for label in labels for part in ("-m", label)]
    together = adapterzoo_process("run", QUICKSTART, *methods, *sets(*SHORT), "--out", tmp_path / "together")
    assert together.returncode == 0, together.stderr
    for label in labels:
        alone = adapterzoo_process("run", QUICKSTART, "-m", label, *sets(*SHORT), "--out", tmp_path / label)
        assert alone.returncode == 0, alone.stderr
        assert_same(adapter(tmp_path / "together", label), adapter(tmp_path / label, label))


def test_lora_learns_the_past_tense(
    adapterzoo_process: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = adapterzoo_process(
        "run", QUICKSTART, "-m", "lora", *sets("evaluate.shots=0", "evaluate.general_text=null"), "--out", tmp_path
    )
    assert done.returncode == 0, done.stderr
    printed = adapterzoo_process("compare", tmp_path, "--format", "json").stdout
    match = {row["label"]: row["metrics"]["exact_match"] for row in json.loads(printed)["rows"]}
    assert match["base"] < 0.05
    assert match["lora"] >= 0.60


def test_rounding_does_not_keep_long_rows_from_being_joined(
    adapterzoo_process: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """In bfloat16, the logits of a single position of a long row may differ by more than joining is allowed to."""
    if slowness("bfloat16") > SLOW:
        pytest.skip("this processor has no instructions for bfloat16: it takes an hour")
    modules = (argparse, ast, calendar, csv, difflib, json, pathlib, shutil, subprocess, textwrap)
    rows = [{"code": inspect.getsource(module)[:2000], "does": str(module.__doc__)[:40]} for module in modules]
    (tmp_path / "long.json").write_text(json.dumps(rows))
    settings = sets(f"data.source={tmp_path}/long.json", "train.steps=1", "evaluate.metrics=[loss]")
    done = adapterzoo_process("run", "bench/long.yaml", "-m", "lora", *settings, "--out", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert "rows are padded" not in done.stderr
