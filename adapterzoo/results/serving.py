"""Keep how an adapter can be served, and what its answers cost then, beside the result of its cell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapterzoo.digests import is_intact, records_digest, signed
from adapterzoo.files import require_ordinary, write_atomically
from adapterzoo.results.result import Result

SERVING = "serving.json"
MAX_BYTES = 2**20


@dataclass(frozen=True)
class Cost:
    """The cost of one model's answers."""

    seconds: float
    """seconds of one answer, the mean over some test examples that were answered one by one"""
    memory_bytes: int
    """highest memory use of a process that loads the model and answers; on a GPU, of the GPU's memory"""


@dataclass(frozen=True)
class Serving:
    """The form in which one adapter can be served, and the cost of its answers; all of it was tried."""

    served_as: str
    """form in which servers can load the adapter"""
    bytes: int
    """size of the files in that form"""
    rank: int | None = None
    """rank of the adapter in that form, if it has one"""
    loss: dict[str, Any] = field(default_factory=dict)
    """what the conversion to that form costs: ``metric``, ``difference`` and its ``interval``; empty if nothing"""
    shares_base: bool = False
    """whether many adapters can be served on one loaded base model"""
    adapter: Cost | None = None
    """cost with the adapter on its base model"""
    merged: Cost | None = None
    """cost of the merged model; None if the adapter cannot be merged"""
    why_not: dict[str, str] = field(default_factory=dict)
    """form that the adapter cannot have -> the reason"""
    hardware: dict[str, Any] = field(default_factory=dict)
    """the machine on which it was tried"""


def read_serving(cell: Path, result: Result) -> Serving | None:
    """Return what was found about the adapter of a cell; None if it was not tried, or another adapter was.

    Args:
        cell: the folder of the cell.
        result: its result, with the digests of the adapter's files.
    """
    path = cell / SERVING
    try:
        require_ordinary(path, MAX_BYTES)
        content = json.loads(path.read_text(encoding="utf-8"))
        if not is_intact(content) or content["adapter_files"] != _digest(result):
            return None
        fields = {**content["serving"]}
        for name in ("adapter", "merged"):
            fields[name] = None if fields[name] is None else Cost(**fields[name])
        return Serving(**fields)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_serving(cell: Path, result: Result, serving: Serving) -> None:
    """Write what was found about the adapter of a cell."""
    content = signed({"adapter_files": _digest(result), "serving": asdict(serving)})
    write_atomically(cell / SERVING, json.dumps(content, indent=1) + "\n")


def _digest(result: Result) -> str:
    return records_digest([result.adapter_files])
