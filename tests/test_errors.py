"""Check the reasons that failures give."""

from __future__ import annotations

from adapterzoo.errors import AdapterzooError, failure_reason


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_error_without_a_message_says_where_it_was_raised() -> None:
    reason = failure_reason(raised(AssertionError()))
    assert reason.startswith("AssertionError: raised in raised, test_errors.py:")
    assert reason.endswith(", without a message")
    assert failure_reason(ValueError()) == "ValueError: raised elsewhere, without a message"
    assert failure_reason(raised(AssertionError("r is 3"))) == "AssertionError: r is 3"
    assert failure_reason(raised(AdapterzooError("no such adapter"))) == "no such adapter"
    assert failure_reason(MemoryError()).startswith("out of memory: ")
