"""Check that a process that does not end is ended."""

from __future__ import annotations

import sys
import time

import pytest

from adapterzoo.machine.processes import in_processes


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_a_function_that_takes_too_long_is_ended() -> None:
    answers = in_processes([lambda: time.sleep(3600), lambda: 5], 2, 1, 1.0)
    assert str(answers[0]) == "it took longer than 1 seconds"
    assert answers[1] == 5
