"""Text for the terminal: what came from a recipe, a model or a plugin can neither steer it nor be markup."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from rich.console import Console
from rich.text import Text

# Control characters, and the marks that reorder text on the screen.
_UNSAFE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]+")


def clean(text: object) -> str:
    """One line without control characters: neither rich's ``escape`` nor ``Text`` takes those out."""
    return _UNSAFE.sub("�", _BREAKS.sub(" ", str(text)))


def clean_lines(text: str) -> str:
    """Return a text of several lines without control characters."""
    return "\n".join(clean(line) for line in text.split("\n"))


def safe(text: object, style: str = "") -> Text:
    """Cleaned text for rich, in which ``[`` is a bracket."""
    return Text(clean(text), style=style)


def inert_markdown(text: object) -> str:
    """A text that a markdown table shows as it is."""
    return re.sub(r"[\\|*`\[_~$]", r"\\\g<0>", clean(text).replace("&", "&amp;").replace("<", "&lt;"))


def stdout() -> Console:
    """Where results go."""
    if os.environ.get("NO_COLOR"):  # rich's own no_color keeps bold and dim
        return Console(highlight=False, soft_wrap=False, color_system=None, no_color=True)
    return Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """Where messages and progress go."""
    return Console(stderr=True, highlight=False)


def tell(console: Console, text: object, style: str = "") -> None:
    """A line of text: broken between words in a terminal, never where it is piped."""
    console.print(safe(text, style), soft_wrap=not console.is_terminal)


@contextmanager
def output_aside() -> Iterator[None]:
    """Within, what a stranger's code prints goes to stderr: stdout is for results, which programs read."""
    try:
        kept = os.dup(1)
    except OSError:  # a process without a stdout has nothing to keep clean
        yield
        return
    try:
        sys.stdout.flush()
        os.dup2(2, 1)  # what libraries in C print, and child processes
        # A stream of its own, which a plugin may close.
        with os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace") as aside, redirect_stdout(aside):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def duration(seconds: float) -> str:
    """``0:42``, ``12:05``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: float) -> str:
    """``512``, ``57.6k``, ``2.44M``, ``134M``, ``8.03B``: three digits that matter."""
    return _short(number, ("", "k", "M", "B", "T"))


def size(number: float) -> str:
    """``241kB``, ``9.81MB``, ``1.69GB`` (powers of ten)."""
    return _short(number, ("B", "kB", "MB", "GB", "TB"))


def _short(number: float, units: tuple[str, ...]) -> str:
    unit = 0
    while number >= 999.5 and unit < len(units) - 1:
        number, unit = number / 1000, unit + 1
    digits = 0 if unit == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{units[unit]}"
