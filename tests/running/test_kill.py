"""Check that a run that is killed at any moment goes on as if nothing had happened; bench/kill_points.py has more."""

from __future__ import annotations

import random
from pathlib import Path

from killing import trials


def test_a_run_that_was_killed_ends_with_the_same_files(tmp_path: Path) -> None:
    for point, problems in trials(tmp_path, 1, random.Random(0), limit=1):
        assert not problems, f"{point}: {problems}"
