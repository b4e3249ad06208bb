"""Write the results of a cell as a run writes them, with scores that a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapterzoo.results.result import Result
from adapterzoo.results.store import Store

RECIPE = {"model": {"name": "m"}, "data": {}, "train": {"steps": 10}, "evaluate": {"metrics": ["exact_match", "loss"]}}
ENVIRONMENT = {"packages": {"torch": "2"}, "device": "cpu", "processor": "x", "cores": 2, "threads": 1, "platform": "l"}
FINGERPRINTS = {"recipe": "r", "data": "d", "train": "a", "validation": "b", "test": "c", "weights": "w"}


def write(
    folder: Path,
    label: str,
    right: Sequence[bool],
    *,
    seed: int = 0,
    losses: Sequence[float] = (),
    **changes: Any,
) -> Result:
    """Write one cell's result and predictions.

    Args:
        folder: the output folder.
        label: the label of the row.
        right: whether the answer to each test example is right; every example has two tokens.
        seed: the seed.
        losses: the loss of each test example; by default 2 for right answers and 4 for wrong ones.
        changes: values of further fields of the result.
    """
    losses = losses or [2.0 if is_right else 4.0 for is_right in right]
    settings: dict[str, Any] = {
        "method": None if label.startswith("base") else label.partition("-")[0],
        "quantization": "none",
        "metrics": {"exact_match": sum(right) / len(right), "test_loss": sum(losses) / (2 * len(right))},
        "fingerprints": FINGERPRINTS,
        "recipe": RECIPE,
        "environment": ENVIRONMENT,
    }
    result = Result(label=label, seed=seed, **{**settings, **changes})
    lines = [
        {
            "index": index,
            "prompt": f"question {index}",
            "reference": "yes",
            "prediction": "yes" if is_right else "no",
            "loss": loss,
            "tokens": 2,
            "right_tokens": 2 if is_right else 0,
            "exact_match": is_right,
        }
        for index, (is_right, loss) in enumerate(zip(right, losses, strict=True))
    ]
    Store(folder).write(result, lines)
    return result
