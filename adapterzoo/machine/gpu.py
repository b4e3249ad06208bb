"""Find the GPUs that processes may use, and make their arithmetic repeatable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from adapterzoo.errors import AdapterzooError, UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"  # CUDA shows a process only the GPUs that this variable lists
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
# torch reads the first of these that is set; the second is its older name.
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
SMI_FIELDS = {
    "clocks.max.sm": "{} MHz",
    "clocks.max.memory": "memory {} MHz",
    "power.limit": "{} W",
    "driver_version": "driver {}",
    "mig.mode.current": "MIG {}",
}
"""field of nvidia-smi -> how its value is written in a result"""
UNKNOWN = "[N/A]"  # the value of a field that a driver does not know
SMI_SECONDS = 30  # a driver that hangs must not stop a run


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


def groups(gpus: Sequence[str], size: int) -> list[str]:
    """Return the ``CUDA_VISIBLE_DEVICES`` of groups of GPUs, each for the processes of one cell.

    Args:
        gpus: what :func:`visible` returned.
        size: number of GPUs in a group.

    Raises:
        UserError: there are too few GPUs for one group.
    """
    if len(gpus) < size:
        what = f"is {size}, but this machine has {len(gpus)} {'GPU' if len(gpus) == 1 else 'GPUs'}."
        raise UserError.at("train.devices", what, "Give each process a GPU of its own.")
    whole = len(gpus) // size * size
    return [",".join(gpus[start : start + size]) for start in range(0, whole, size)]


def name() -> str:
    """Return the name of the GPU that this process uses.

    Raises:
        AdapterzooError: this process finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise AdapterzooError(f"CUDA finds no GPU in this process ({VISIBLE}={os.environ.get(VISIBLE, '')})")
    return str(torch.cuda.get_device_name())


def description() -> str | None:
    """Return what a GPU's speed depends on beside its name: memory, clocks, power, driver, CUDA, MIG; None without one.

    A MIG instance, a part of a GPU, has its size in its name.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties()
    gigabytes = properties.total_memory / 2**30
    parts = [f"{gigabytes:.0f} GiB", f"{properties.multi_processor_count} multiprocessors"]
    return ", ".join([*parts, f"CUDA {torch.version.cuda}", *_from_driver(str(properties.uuid))])


def _from_driver(uuid: str) -> list[str]:
    """Return what the driver's own program says of a GPU; nothing where there is none, or it does not know the GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    values = [value.strip().removesuffix(".00") for value in answer.split(",")]
    answered = zip(SMI_FIELDS.values(), values, strict=False)
    return [text.format(value) for text, value in answered if value and value != UNKNOWN]


def process_environment(gpu: str) -> dict[str, str]:
    """Return the variables for a process that uses one GPU, named as in :func:`visible`.

    Cells of different sizes follow each other in a process, and torch by default cannot join the freed pieces of
    memory that they leave. With growing segments it can.
    """
    growing = {} if any(name in os.environ for name in ALLOCATOR) else {ALLOCATOR[0]: "expandable_segments:True"}
    return {VISIBLE: gpu, **growing}


def set_precision(tf32: bool) -> None:
    """Let this process multiply float32 matrices on a GPU in TF32, or not; without a GPU do nothing."""
    import torch

    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if tf32 else "highest")


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
