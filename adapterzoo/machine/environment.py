"""Describe the package versions and the hardware of a result, which decide which rows are comparable."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from adapterzoo.digests import file_digest, text_digest
from adapterzoo.errors import Problem
from adapterzoo.machine import gpu

PACKAGES = ("adapterzoo", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")
SAME_HINT = "Install the same packages on all machines."


def environment(more: Sequence[str] = ()) -> dict[str, Any]:
    """Return package versions, hardware and thread count.

    Args:
        more: packages that scores depend on, in addition to PACKAGES.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "packages": versions((*PACKAGES, *more)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "gpu": gpu.description(),
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return package -> its version; None if it is not known."""
    return {name: _version(name) for name in packages}


def other_versions(machine: str, found: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> list[Problem]:
    """Return, as a problem, each package whose version on another machine is not that of this one."""
    return [
        Problem(machine, f"has {_named(name, found.get(name))}, and this machine {_named(name, version)}.", SAME_HINT)
        for name, version in wanted.items()
        if found.get(name) != version
    ]


def _named(package: str, version: str | None) -> str:
    return f"{package} {version}" if version else f"no {package}"


def version_of(package: str) -> str:
    """Return the name of a package and its version, or only the name if the version is not known."""
    return f"{package} {_version(package) or ''}".strip()


def _version(name: str) -> str | None:
    """Return the version of a package; None if it is not known.

    For an editable install of a package that is not in PACKAGES, a digest of its source is added.
    """
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    if name in PACKAGES or not _editable(package):
        return package.version
    return f"{package.version}+{_source_digest(package)[:8]}"


def _editable(package: metadata.Distribution) -> bool:
    try:
        return bool(json.loads(package.read_text("direct_url.json") or "{}")["dir_info"]["editable"])
    except (ValueError, KeyError, TypeError):
        return False


def _source_digest(package: metadata.Distribution) -> str:
    """Return a digest of the top-level packages that hold a distribution's entry points."""
    names = sorted({point.module.partition(".")[0] for point in package.entry_points})
    specs = [spec for spec in map(importlib.util.find_spec, names) if spec is not None]
    folders = [Path(folder) for spec in specs for folder in spec.submodule_search_locations or ()]
    files = [Path(spec.origin) for spec in specs if spec.origin]
    files += [path for folder in folders for path in folder.rglob("*.py")]
    return text_digest("\0".join(file_digest(path) for path in sorted({*files}) if path.is_file()))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
