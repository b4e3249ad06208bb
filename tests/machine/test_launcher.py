"""Check what a launcher is told of an error, and whether ranks know that another one was lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from adapterzoo.cli import main
from adapterzoo.errors import UserError
from adapterzoo.machine import launcher, ranks

# Starts two processes as torchrun does; number 0 ends at once, and number 1 says what it knows.
STARTS_TWO = """
import os, subprocess, sys
quick = [sys.executable, "-c", "pass"]
asking = [sys.executable, "-c", "from adapterzoo.machine import launcher; print(launcher.lost())"]
places = [{"RANK": str(n), "LOCAL_RANK": str(n), "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"} for n in (0, 1)]
first = subprocess.Popen(quick if sys.argv[1] == "0" else ["sleep", "60"], env={**os.environ, **places[0]})
if sys.argv[1] == "0":
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
subprocess.run(asking, env={**os.environ, **places[1]})
first.kill()
"""


def of_rank(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    for name, value in {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))


def test_torchrun_prints_the_reason_where_it_prints_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    of_rank(monkeypatch, 0)
    monkeypatch.setenv(launcher.REASON_FILE, str(tmp_path / "error.json"))
    launcher.report_failure("error: my.yaml:3: unknown key\x1b[31m")
    read = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(tmp_path / "error.json"))
    shown: object = read.message
    assert isinstance(shown, dict)
    assert shown["extraInfo"]["py_callstack"].startswith("error: my.yaml:3: unknown key")
    assert "\x1b" not in json.dumps(shown["message"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError.at("my.yaml:3", "unknown key"), "error: my.yaml:3: unknown key"),
        (click.UsageError("no such option"), "error: no such option"),
        (OSError(errno.ENOSPC, "No space left", "out/x"), "error: out/x: No space left"),
        (ValueError("only here"), "error: ValueError: only here"),
        (click.exceptions.Exit(0), None),
    ],
)
def test_every_error_of_a_command_is_reported(
    error: Exception, reason: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise error

    of_rank(monkeypatch, 0)
    monkeypatch.setenv(launcher.REASON_FILE, str(tmp_path / "error.json"))
    monkeypatch.setitem(main.commands, "fail", click.Command("fail", callback=fail))
    CliRunner().invoke(main, ["fail"])
    told = json.loads((tmp_path / "error.json").read_text()) if (tmp_path / "error.json").exists() else None
    assert (told and told["message"]["message"]) == reason


@pytest.mark.parametrize("file", ["", os.devnull, "/nowhere/error.json"])
def test_without_a_place_for_it_nothing_is_told(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_rank(monkeypatch, 0)
    monkeypatch.setenv(launcher.REASON_FILE, file)
    launcher.report_failure("error")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")
@pytest.mark.parametrize(("ended", "expected"), [("0", "[0]"), ("none", "[]")])
def test_a_rank_knows_which_other_one_has_ended(ended: str, expected: str) -> None:
    done = subprocess.run([sys.executable, "-c", STARTS_TWO, ended], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_lost_rank_is_named_in_the_place_of_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    of_rank(monkeypatch, 0)
    said: list[str] = []
    monkeypatch.setattr(launcher, "lost", lambda: [1])
    launcher.naming_lost(said.append)("stopping")
    monkeypatch.setattr(launcher, "lost", list)
    launcher.naming_lost(said.append)("stopping")
    assert said == ["stopping, because rank 1 of 2 was lost: its process has ended by itself.", "stopping"]


@pytest.mark.parametrize("gpus", [1, 2])
def test_more_processes_than_gpus_are_refused_on_all_of_them(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    taken: list[int] = []
    of_rank(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(ranks, "gathered", lambda own: [own, (2, gpus)])
    if gpus == 2:
        ranks._take_gpu()
        assert taken == [0]
        return
    with pytest.raises(UserError, match=r"the launcher: has started 2 processes on a machine that has 1 GPU\."):
        ranks._take_gpu()
