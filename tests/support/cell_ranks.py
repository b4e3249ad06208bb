"""Runs whose cells are done by several processes, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")
RANKS = ("--set", "train.devices=2")


def result(out: Path, label: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / label / "seed-0" / "result.json").read_text())
    return found


def adapter(out: Path, label: str) -> dict[str, Any]:
    return load_file(out / label / "seed-0" / "adapter" / "adapter_model.safetensors")
