"""A push that loses its connection, and is then killed, goes on with the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from hub_server import Hub
from publishing_fixtures import TOKEN


def test_what_has_arrived_is_not_sent_again(
    hub: Hub, run_folder: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    hub.uploads.break_after = 1
    inherited = {name: value for name, value in os.environ.items() if "HF_" not in name and "OFFLINE" not in name}
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "adapterzoo", "push", str(run_folder), "--table", "ada/verbs"]
    pushing = subprocess.Popen(command, env={**inherited, **settings}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while not (broken := any(method == "BROKEN" for method, _, _ in hub.requests)) and time.monotonic() < deadline:
        assert pushing.poll() is None, pushing.communicate()[1]
        time.sleep(0.05)
    assert broken
    pushing.send_signal(signal.SIGKILL)
    _, messages = pushing.communicate()
    assert TOKEN not in messages
    (first,) = hub.uploads.arrived
    repository = hub.repositories["ada/verbs"]
    assert {*repository.revisions["main"]} == {".gitattributes", "README.md"}

    hub.uploads.break_after = None
    done = adapterzoo("push", run_folder, "--table", "ada/verbs")
    assert done.exit_code == 0, done.output
    assert {*repository.revisions["main"]} > {"README.md", "comparison.html", "comparison.json", "rows.jsonl"}
    assert len(hub.uploads.arrived) == 2
    assert hub.uploads.arrived.count(first) == 1
    cards = [body for body in hub.uploads.bodies if b"/commit/" in body[:100] and b'"README.md"' in body]
    assert len(cards) == 1
