"""Find the GPUs that processes may use, and make their arithmetic repeatable."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from adapterzoo.errors import AdapterzooError

VISIBLE = "CUDA_VISIBLE_DEVICES"  # CUDA shows a process only the GPUs that this variable lists
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def visible() -> list[str]:
    """Return, for each GPU that this process may use, the ``CUDA_VISIBLE_DEVICES`` that shows only this GPU.

    It is empty on other systems than Linux, where adapterzoo starts no processes for GPUs.
    """
    import torch

    if sys.platform != "linux" or not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    listed = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (listed or [str(number) for number in range(count)])[:count]


def name() -> str:
    """Return the name of the GPU that this process uses.

    Raises:
        AdapterzooError: this process finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise AdapterzooError(f"CUDA finds no GPU in this process ({VISIBLE}={os.environ.get(VISIBLE, '')})")
    return str(torch.cuda.get_device_name())


@contextmanager
def repeatable() -> Iterator[None]:
    """Choose kernels that give the same bits each time, in a ``with`` block; without a GPU do nothing.

    By default some kernels add numbers in the order in which their threads end, so the last bits of a gradient differ
    from run to run. Where torch has no repeatable kernel, it uses another one, and the bits may still differ.
    """
    import torch

    if not torch.cuda.is_available():
        yield
        return
    before, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault(CUBLAS, ":4096:8")  # without it, cuBLAS is not repeatable
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it costs time and changes no result
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled
