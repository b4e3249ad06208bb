"""Results for tests of the page, and what tests of it ask a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from adapterzoo.results.result import Result
from adapterzoo.results.store import Store

EXAMPLES = 40
COMMON: dict[str, Any] = {
    "environment": {"device": "cpu", "packages": {"torch": "2.13.0", "peft": "0.21.2"}},
    "recipe": {"model": {"name": "smollm2-135m"}},
    "fingerprints": {"weights": "4306fc409579ace3"},
}
Show = Callable[..., AbstractContextManager[Any]]


def put(folder: Path, label: str, right: int | None = None, **more: Any) -> None:
    """Write a cell with so many right answers; without a score if ``right`` is None."""
    metrics = {} if right is None else {"exact_match": right / EXAMPLES}
    settings = {
        "method": label,
        "seed": 0,
        "quantization": "none",
        "total_params": 136_000_000,
        "metrics": metrics,
        **more,
    }
    texts = [{"prompt": f"go {i}", "reference": f"he went {i}", "index": i} for i in range(EXAMPLES)]
    answers = [
        {**text, "prediction": text["reference"] if i < right else f"he {label} {i}", "exact_match": i < right}
        for i, text in enumerate(texts if right is not None else [])
    ]
    Store(folder).write(Result(label=label, **settings), answers)


def history(first: float, number: int = 30) -> list[dict[str, float]]:
    return [{"step": float(i), "loss": first / i} for i in range(1, number + 1)] + [{"step": 1.0, "eval_loss": 9.0}]


def trial(r: int, score: float | None, error: str | None = None) -> dict[str, Any]:
    scored = {"metric": "exact_match", "score": score, "loss": 1 / r if score is not None else None}
    return {"settings": {"r": r}, **scored, "seconds": 61.0, "error": error}


def tuning(trials: list[dict[str, Any]], r: int, metric: str = "exact_match") -> dict[str, Any]:
    return {"metric": metric, "trials": trials, "chosen": {"r": r}, "space": {}}


def several(folder: Path) -> None:
    """Write two base rows, four methods and a failed one; ``costly`` is worse than ``good`` and costs more."""
    put(folder, "base", 1, method=None, **COMMON)
    put(folder, "base-4-shot", 13, method=None, **COMMON)
    costs = {"tiny": (57_600, 56.0), "cheap": (900_000, 120.0), "good": (2_400_000, 97.0), "costly": (3_600_000, 124.0)}
    for right, (label, (params, seconds)) in zip((24, 28, 33, 32), costs.items(), strict=True):
        values = {"trainable_params": params, "train_seconds": seconds, "history": history(3.0 + right / 10)}
        values |= {"learning_rate": 3e-4, "adapter_bytes": 4 * params} | COMMON
        if label != "tiny":
            values["peak_memory_bytes"] = 1_700_000_000 + params
        if label == "good":
            trials = [trial(1, 0.9), trial(2, 0.5), trial(4, None, "out of memory"), trial(8, 0.9), trial(16, 0.7)]
            values["tuning"] = tuning(trials, 8)
        put(folder, label, right, **values)
    put(folder, "broke", status="failed", error="out of memory", **COMMON)


def labels(shown: Any) -> list[str]:
    return list(shown.locator("table.rows").first.locator("tbody th").all_inner_texts())


def header(shown: Any, title: str) -> Any:
    return shown.locator("table.rows").first.locator("thead th").filter(has_text=re.compile(rf"^{title}$"))
