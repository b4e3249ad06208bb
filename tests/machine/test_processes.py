"""Check that a process that does not end is ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from adapterzoo.machine.processes import in_processes


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends them")
def test_a_new_process_does_not_outlive_a_parent_that_was_killed_while_it_started(tmp_path: Path) -> None:
    """It would write into the folder of the next run."""
    module = "class Handler:\n    def __call__(self, item, send):\n        open(item, 'w').close()\n"
    (tmp_path / "third_party_handler.py").write_text(module)
    killed = (
        f"import os, signal, sys; sys.path.insert(0, {str(tmp_path)!r}); import third_party_handler as handler; "
        "from adapterzoo.machine.fresh_process import FreshProcess; "
        f"process = FreshProcess(handler.Handler(), 1, {{}}); process.give({str(tmp_path / 'written')!r}); "
        "print(process.process_id, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True)
    until = time.monotonic() + 60
    while psutil.pid_exists(int(parent.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not (tmp_path / "written").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_a_function_that_takes_too_long_is_ended() -> None:
    answers = in_processes([lambda: time.sleep(3600), lambda: 5], 2, 1, 1.0)
    assert str(answers[0]) == "it took longer than 1 seconds"
    assert answers[1] == 5
