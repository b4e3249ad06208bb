"""The HTML page, as a real browser shows it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapterzoo.comparison import Comparison, compare
from adapterzoo.report import page
from adapterzoo.report.columns import cell, columns
from adapterzoo.results import Result
from adapterzoo.store import Store

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"'><b onmouseover=alert(3)>",
    '<a href="javascript:alert(4)">link</a>',
    "&lt;i&gt; &amp; $x^2$ **bold** [l](javascript:alert(5)) {{ 7*7 }} <!--",
    "<b>%{x}</b> %{customdata}<br>",
    "\x1b[2J\x1b]0;owned\x07\u202e",
)
EXAMPLES = 40
Open = Callable[..., AbstractContextManager[Any]]


def put(folder: Path, label: str, right: int | None = None, **more: Any) -> None:
    """A finished cell that has so many of its answers right, or one without a score."""
    metrics = {"exact_match": right / EXAMPLES} if right is not None else {}
    settings = {"method": label, "seed": 0, "base": "none", "total_params": 136_000_000, "metrics": metrics} | more
    answers = [{"exact_match": i < right} for i in range(EXAMPLES)] if right is not None else []
    Store(folder).write(Result(label=label, **settings), answers)


def steps(first: float, number: int = 30) -> list[dict[str, float]]:
    return [{"step": float(i), "loss": first / i} for i in range(1, number + 1)]


def tuning(**better: float) -> dict[str, Any]:
    trials = [{"settings": {"r": i}, "score": score, "seconds": 61.0, "error": None} for i, score in enumerate((0.5, 0.9, 0.7))]
    return {"metric": "exact_match", "trials": [*trials, {"settings": {"r": 9}, "score": None, "seconds": 2.0, "error": "out of memory"}], "chosen": {"r": 1}}
