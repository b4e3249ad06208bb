"""How far apart two observations are, how far they may be, and how that is said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adapterzoo.conformance.observe import Observed
from adapterzoo.errors import PluginError

if TYPE_CHECKING:
    import torch

# Largest difference of two logits that should be the same, as a share of the spread of the base's logits.
TOLERANCE = {"none": 1e-4, "int8": 1e-3, "nf4": 1e-3}


def differ(seen: Observed, one: str, other: str, allowed: float, which: str, hint: str) -> str | None:
    """What to say where two logits that should be the same are not."""
    gap = distance(seen, one, other)
    return None if gap <= allowed else f"the logits {which} differ by {gap:.2g} (allowed: {allowed:.2g}); {hint}"


def some(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3])


def distance(seen: Observed, one: str, other: str) -> float:
    """The largest difference between two observed logits."""
    gap = (seen.logits[one] - seen.logits[other]).abs().max().item()
    return gap if math.isfinite(gap) else math.inf


def tolerance(seen: Observed) -> float:
    """How far apart logits may be that should be the same."""
    spread: float = seen.logits["base"].std().item()
    return TOLERANCE[seen.quantization] * spread


def same(first: dict[str, torch.Tensor], other: dict[str, torch.Tensor], how: str, hint: str) -> str | None:
    """What to say where trained tensors that should be the same, bit for bit, are not."""
    different = [name for name, tensor in first.items() if name not in other or not tensor.equal(other[name])]
    if not different:
        return None
    name = different[0]
    gap = (first[name] - other[name]).abs().max().item() if name in other else math.nan
    return f"{how}, {len(different)} of {len(first)} tensors differ, like {name} by {gap:.2g}; {hint}"


def said(error: BaseException) -> str:
    """An error in one line, with the place in the plugin's code or the library's where it was raised."""
    if isinstance(error, PluginError):
        return str(error)  # which says it all: the place would be in adapterzoo
    place = ""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}{place}"
