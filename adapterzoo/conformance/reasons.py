"""Shorten what is wrong with a method to a reason that fits into a table."""

from __future__ import annotations

import re

MAX_REASON = 140  # in characters
# Parts of messages that are of no use in a table: places in code and folders, and torch.compile's long explanations.
NOISE = re.compile(
    r" ?\([\w.]+\.py:\d+\)|\S*/adapterzoo-\w+/(\S*/)?| Explanation: .*|^with [\w ]+: "
    r"|\b(Adapterzoo|Elsewhere|ProcessEnded)Error: |\.$"
)
NO_MERGE = re.compile(r"^(merge\(\) raised )?(AttributeError: .*merge_and_unload.*|NotImplementedError.*)")


def reason(problem: str | None) -> bool | str:
    """Return True if there is no problem, else the problem as one short text without its hint."""
    if not problem:
        return True
    text = NOISE.sub("", " ".join(problem.split())).partition("; ")[0].strip(": ")
    text = NO_MERGE.sub("it has nothing to merge", text)
    if text.count("(") > text.count(")"):  # the rest of the bracket is gone
        text = text.rpartition(" (")[0] or text
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1].rsplit(" ", 1)[0] + "…"
