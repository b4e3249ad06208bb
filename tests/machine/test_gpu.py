"""Check what is asked of the driver of a GPU, and what its processes get."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterzoo.machine import gpu

# The answer of a real driver, for an H200; another driver may not know a field.
ANSWER = "1980, 3201, 700.00, 580.159.04, Disabled"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ANSWER, ["1980 MHz", "memory 3201 MHz", "700 W", "driver 580.159.04", "MIG Disabled"]),
        (ANSWER.replace("Disabled", "[N/A]"), ["1980 MHz", "memory 3201 MHz", "700 W", "driver 580.159.04"]),
        ("", []),
    ],
)
def test_what_the_driver_says_is_in_words(
    answer: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpu._from_driver("0") == expected


def test_without_a_driver_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu._from_driver("0") == []


def test_a_process_grows_its_segments_of_memory_unless_the_user_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in gpu.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    growing = gpu.process_environment("1")
    assert growing == {"CUDA_VISIBLE_DEVICES": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert gpu.process_environment("1") == {"CUDA_VISIBLE_DEVICES": "1"}
