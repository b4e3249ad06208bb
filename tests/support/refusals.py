"""Check how the command line refuses a user's mistake."""

from __future__ import annotations

from click.testing import Result


def refused(result: Result, *expected: str) -> None:
    """Assert exit code 2, an empty stdout, no traceback, and each of these texts on stderr."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    text = " ".join(result.stderr.split())
    for part in expected:
        assert part in text, result.stderr
