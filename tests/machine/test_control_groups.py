"""Check that the limits of containers and batch jobs are found, in the files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from adapterzoo.machine import control_groups
from adapterzoo.machine.memory import available_outside_gpus
from adapterzoo.machine.processes import cores

GB = 10**9
OLD = {
    "memory/jobs/1/memory.limit_in_bytes": 3 * GB,
    "memory/jobs/1/memory.usage_in_bytes": 2 * GB,
    "memory/jobs/1/memory.stat": f"inactive_file 5\ntotal_active_file {GB // 2}\ntotal_inactive_file {GB // 4}",
    "memory/jobs/memory.limit_in_bytes": 9223372036854771712,  # no limit
    "memory/jobs/memory.usage_in_bytes": 2 * GB,
    "cpu,cpuacct/jobs/1/cpu.cfs_quota_us": 150_000,
    "cpu,cpuacct/jobs/1/cpu.cfs_period_us": 100_000,
    "cpu,cpuacct/jobs/cpu.cfs_quota_us": -1,
    "cpu,cpuacct/jobs/cpu.cfs_period_us": 100_000,
}
NEW = {
    "jobs/1/memory.max": "max",
    "jobs/1/memory.current": GB,
    "jobs/1/cpu.max": "max 100000",
    "jobs/memory.max": 3 * GB,
    "jobs/memory.current": 2 * GB,
    "jobs/memory.stat": f"active_file {GB // 2}\ninactive_file {GB // 4}",
    "jobs/cpu.max": "150000 100000",
}
# In a container the paths of version 1 are those of the machine, and its own group is the root.
CONTAINER = {path.replace("/jobs/1/", "/"): value for path, value in OLD.items() if "/jobs/1/" in path}
OLD_GROUPS = "5:memory:/jobs/1\n4:cpu,cpuacct:/jobs/1\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files"), [(OLD_GROUPS, OLD), ("0::/jobs/1\n", NEW), (OLD_GROUPS, CONTAINER)], ids=["v1", "v2", "container"]
)
def test_the_smallest_limit_counts(
    own: str, files: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    assert control_groups.memory_of_groups() == 3 * GB
    assert control_groups.free_memory_of_groups() == 3 * GB - 2 * GB + GB // 2 + GB // 4
    assert control_groups.cores_of_groups() == 1.5
    assert cores() == 1
    assert available_outside_gpus() <= 3 * GB - 2 * GB + GB // 2 + GB // 4 < psutil.virtual_memory().total


def test_nothing_is_limited_without_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (None, b"0::/jobs/1\n3:memory:/jobs\n", b"0::/caf\xe9\n", b"no groups here\n\n"):
        own = tmp_path / "missing"
        if content is not None:
            own = tmp_path / "own"
            own.write_bytes(content)
        monkeypatch.setattr(control_groups, "OWN", own)
        monkeypatch.setattr(control_groups, "GROUPS", tmp_path)
        found = control_groups.memory_of_groups, control_groups.free_memory_of_groups, control_groups.cores_of_groups
        assert [look() for look in found] == [None, None, None]
