"""Find the limits of a container or a batch job on Linux: a control group may have less than the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
CACHE = ("active_file", "inactive_file", "total_active_file", "total_inactive_file")
"""pages of files, which count as used and can be taken back; in version 1, the last two are those of subgroups too"""


def free_memory_of_groups() -> int | None:
    """Return how many more bytes the processes of this one's groups may use; None if none of them has a limit."""
    free = [
        limit - used
        for folder in _folders("memory")
        for limit, used in (
            (_number(folder / "memory.max"), _used(folder, "memory.current")),
            (_number(folder / "memory.limit_in_bytes"), _used(folder, "memory.usage_in_bytes")),
        )
        if limit is not None
    ]
    return max(min(free), 0) if free else None


def memory_of_groups() -> int | None:
    """Return the smallest limit of memory of this process's groups, in bytes; None if none of them has one."""
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [_number(folder / name) for folder in _folders("memory") for name in names]
    return min((limit for limit in limits if limit is not None), default=None)


def cores_of_groups() -> float | None:
    """Return how many cores' time this process's groups get; None if that is not limited."""
    found = []
    for folder in _folders("cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        with suppress(OSError, ValueError):
            quota, period = map(int, (folder / "cpu.max").read_text(encoding="ascii").split())
        if quota is not None and period and quota > 0:
            found.append(quota / period)
    return min(found, default=None)


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those that it is in, of both versions of control groups."""
    try:
        lines = os.fsdecode(OWN.read_bytes()).splitlines()  # names of groups may have any bytes
    except OSError:  # not Linux
        return
    for line in lines:
        if line.count(":") < 2:  # not as Linux writes it, so that nothing is known of groups
            continue
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        # In a container, the path may be that of the machine, and the container's own group be the root.
        for root in [GROUPS / names, GROUPS / controller] if names else [GROUPS, GROUPS / "unified"]:
            group = root / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _used(folder: Path, name: str) -> int:
    used = _number(folder / name) or 0
    counts = {}
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            counts[key] = int(value)
    total = [counts[key] for key in CACHE[2:] if key in counts]
    return used - sum(total or [counts.get(key, 0) for key in CACHE[:2]])


def _number(path: Path) -> int | None:
    """Return the number in a file; None if there is none, as where there is no limit."""
    with suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None
