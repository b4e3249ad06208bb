"""What a result was made with: package versions and hardware. Rows of different stacks are not comparable."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

PACKAGES = ("adapterzoo", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")


def environment(more: Sequence[str] = ()) -> dict[str, Any]:
    """Return package versions, hardware and thread count.

    Args:
        more: packages that scores depend on, beside those that they always do.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "packages": {name: _version(name) for name in (*PACKAGES, *more)},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }


def version_of(package: str) -> str:
    """A package with its version, as far as that is known."""
    return f"{package} {_version(package) or ''}".strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
