"""What a user's mistake looks like at the command line."""

from __future__ import annotations

from click.testing import Result


def refused(result: Result, *expected: str) -> None:
    """Exit code 2, nothing on stdout, no traceback, and each of these texts among what was said."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    text = " ".join(result.stderr.split())
    for part in expected:
        assert part in text, result.stderr
