"""Compare the records of a method's behaviour, and describe differences that are too large."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo.errors import PluginError, origin
from adapterzoo.quantizations.contract import NONE

if TYPE_CHECKING:
    import torch

    from adapterzoo.conformance.observation import Observation

NOT_CHECKED = "-"
"""the verdict on a property that the method declares not to have, or that could not be checked"""
# Accept a difference of logits up to this share of the standard deviation of the base's logits.
TOLERANCE, QUANTIZED_TOLERANCE = 1e-4, 1e-3
# Accept a difference after a merge up to this share of the adapter's effect; quantized weights are rounded again.
MERGE_TOLERANCE, QUANTIZED_MERGE_TOLERANCE = 1e-3, 0.15


def logits_problem(observed: Observation, first: str, second: str, allowed: float, which: str, hint: str) -> str | None:
    """Describe the difference of two tensors of logits that should be the same; return None if it is small enough."""
    gap = distance(observed, first, second)
    return None if gap <= allowed else f"the logits {which} differ by {gap:.2g} (allowed: {allowed:.2g}); {hint}"


def first_few(names: list[str]) -> str:
    """Return the first three names as a text."""
    return ", ".join(names[:3])


def distance(observed: Observation, first: str, second: str) -> float:
    """Return the largest difference between two observed tensors of logits."""
    gap = (observed.logits[first] - observed.logits[second]).abs().max().item()
    return gap if math.isfinite(gap) else math.inf


def tolerance(observed: Observation) -> float:
    """Return the largest difference that is accepted between logits that should be the same."""
    spread: float = observed.logits["base"].std().item()
    return (TOLERANCE if observed.quantization == NONE else QUANTIZED_TOLERANCE) * spread


def merge_tolerance(quantization: str) -> float:
    """Return the largest difference that is accepted after a merge, as a share of the adapter's effect."""
    return MERGE_TOLERANCE if quantization == NONE else QUANTIZED_MERGE_TOLERANCE


def tensors_problem(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], when: str, hint: str
) -> str | None:
    """Describe which trained tensors differ, although they should be equal bit for bit; return None if none differs."""
    different = [name for name, tensor in first.items() if name not in second or not tensor.equal(second[name])]
    if not different:
        return None
    name = different[0]
    gap = (first[name] - second[name]).abs().max().item() if name in second else math.nan
    return f"{when}, {len(different)} of {len(first)} tensors differ, like {name} by {gap:.2g}; {hint}"


def describe_error(error: BaseException) -> str:
    """Return an error as one line, with the file and line of the plugin or library that raised it."""
    if isinstance(error, PluginError):
        return str(error)  # adapterzoo raised it, so its place in the code does not help the author
    place = f" ({Path(raised.filename).name}:{raised.lineno})" if (raised := origin(error)) else ""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}{place}"
