"""Write parts of a card in markdown, in which no text from recipes, data or models acts as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adapterzoo.terminal import clean_lines, escape_markdown


def fenced(text: str, language: str) -> str:
    """Return a block of code; its fence is longer than any row of backticks in it."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{clean_lines(text).rstrip()}\n{fence}"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join("---" for _ in titles) + " |"]
    lines += ["| " + " | ".join(escape_markdown(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def folded(title: str, content: str) -> str:
    """Return content that a reader opens with a click."""
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"
