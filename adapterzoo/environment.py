"""What a result was made with: package versions and hardware. Rows of different stacks are not comparable."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

PACKAGES = ("adapterzoo", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")


def environment() -> dict[str, Any]:
    """Package versions, hardware and thread count."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "packages": {name: _version(name) for name in PACKAGES},
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
