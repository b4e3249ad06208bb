"""Find the GPUs that this process may use, and make their arithmetic repeatable."""

from __future__ import annotations

import os

VISIBLE = "CUDA_VISIBLE_DEVICES"  # CUDA shows a process only the GPUs that this variable lists


def visible() -> list[str]:
    """Return what to write into ``CUDA_VISIBLE_DEVICES`` for each GPU that this process may use."""
    import torch

    count = torch.cuda.device_count()
    listed = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (listed or [str(number) for number in range(count)])[:count]


def make_repeatable() -> None:
    """Make the GPU's arithmetic give the same bits each time; without a GPU do nothing.

    By default some kernels add numbers in the order in which their threads end, so the last bits of a gradient differ
    from run to run. After this call, torch only warns of an operation that has no repeatable kernel.
    """
    import torch

    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is not repeatable
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it costs time and changes no result
