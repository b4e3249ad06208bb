"""Choose the number format of a model that this machine computes with, where the recipe leaves that open."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapterzoo.recipe.schema import ModelSection

AUTO, FULL, HALF = "auto", "float32", "bfloat16"
# A processor either has instructions for 16 bits, and then it is about as fast as in float32 or faster, or it has none:
# then a matrix product took over 40 times as long (AMD EPYC with AVX2, torch 2.13).
SLOW = 4.0
ROWS, WIDTH, REPEATS = 64, 256, 5


def with_fast_dtype(model: ModelSection, say: Callable[[str], None] | None = None) -> ModelSection:
    """Return a recipe's model section with a number format that is fast on this machine, if it leaves that open.

    On GPUs that is bfloat16, or float16 on those before Ampere. On a CPU it is bfloat16, or float32 if the processor
    has no instructions for bfloat16.

    Args:
        model: the section.
        say: is told if bfloat16 is not chosen, or if the format that the recipe names is slow here.
    """
    if model.dtype != AUTO:
        if say is not None and (why := _why_slow(model.dtype)):
            say(f"model.dtype: {why}; auto would choose {FULL}")
        return model
    chosen, why = _fastest()
    if say is not None and why:
        say(f"model.dtype: {why}, so it is {chosen}")
    return model.model_copy(update={"dtype": chosen})


def _fastest() -> tuple[str, str]:
    """Return the number format to choose, and why it is not bfloat16, empty if it is."""
    import torch

    if not torch.cuda.is_available():
        why = _why_slow(HALF)
        return (FULL if why else HALF), why
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return HALF, ""
    return "float16", "this GPU does not compute in bfloat16"


def _why_slow(dtype: str) -> str:
    """Return that this processor is slow with a number format; empty if it is not, or if a GPU computes."""
    import torch

    if dtype == FULL or torch.cuda.is_available():
        return ""
    times = slowness(dtype)
    return f"this processor takes {times:.0f} times as long in {dtype} as in float32" if times > SLOW else ""


@cache
def slowness(dtype: str) -> float:
    """Return how many times as long a matrix product on the CPU takes as in float32."""
    import torch

    return _seconds(getattr(torch, dtype)) / _seconds(torch.float32)


def _seconds(dtype: Any) -> float:
    """Return the shortest time of several small matrix products."""
    import torch

    times = []
    with torch.no_grad():
        first, second = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
        for _ in range(REPEATS):
            begun = time.perf_counter()
            first @ second
            times.append(time.perf_counter() - begun)
    return min(times)
