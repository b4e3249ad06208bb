"""Print text in the terminal, without control characters and markup from recipes, models or plugins."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from rich.console import Console
from rich.text import Text

# These are control characters, invisible characters, and marks that reorder text on the screen.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)
_LINE_BREAKS = re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]+")


def clean(text: object) -> str:
    """Return a text as one line without control characters, which neither rich's ``escape`` nor ``Text`` removes."""
    return _UNSAFE.sub("�", _LINE_BREAKS.sub(" ", str(text)))


def clean_lines(text: str) -> str:
    """Return a text of several lines without control characters."""
    return "\n".join(clean(line) for line in text.split("\n"))


def safe(text: object, style: str = "") -> Text:
    """Return a cleaned text for rich, which then prints ``[`` as a bracket and not as markup."""
    return Text(clean(text), style=style)


def escape_markdown(text: object) -> str:
    """Return a text in which the characters that would be markup in a markdown table are escaped."""
    return re.sub(r"[\\|*`\[_~$]", r"\\\g<0>", clean(text).replace("&", "&amp;").replace("<", "&lt;"))


def stdout() -> Console:
    """Return the console for results."""
    if os.environ.get("NO_COLOR"):  # rich's own no_color would keep bold and dim text
        return Console(highlight=False, soft_wrap=False, color_system=None, no_color=True)
    return Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """Return the console for messages and progress."""
    return Console(stderr=True, highlight=False)


def tell(console: Console, text: object, style: str = "") -> None:
    """Print a text; in a terminal it is wrapped between words, in a pipe it stays one line."""
    console.print(safe(text, style), soft_wrap=not console.is_terminal)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what libraries and plugins print, because programs read the results from stdout."""
    try:
        original = os.dup(1)
    except OSError:  # this process has no stdout, so there is nothing to protect
        yield
        return
    try:
        sys.stdout.flush()
        os.dup2(2, 1)  # redirects C libraries and child processes, which redirect_stdout does not reach
        # Give Python code a separate stream, because a plugin may close it.
        with os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace") as stream, redirect_stdout(stream):
            yield
    finally:
        os.dup2(original, 1)
        os.close(original)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 cell``, ``2 cells``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time as ``0:42``, ``12:05`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: float) -> str:
    """Return a number with three significant digits: ``512``, ``57.6k``, ``2.44M``, ``134M``, ``8.03B``."""
    return _short(number, ("", "k", "M", "B", "T"))


def size(number: float) -> str:
    """Return a number of bytes as ``241kB``, ``9.81MB`` or ``1.69GB`` (powers of ten)."""
    return _short(number, ("B", "kB", "MB", "GB", "TB"))


def operations(number: float) -> str:
    """Return a number of floating-point operations as ``345MFLOP``, ``1.81TFLOP`` or ``2.40EFLOP``."""
    return _short(number, tuple(f"{prefix}FLOP" for prefix in ("", "k", "M", "G", "T", "P", "E")))


def _short(number: float, units: tuple[str, ...]) -> str:
    unit = 0
    while number >= 999.5 and unit < len(units) - 1:
        number, unit = number / 1000, unit + 1
    digits = 0 if unit == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{units[unit]}"


class Progress:
    """Says on stderr how far a loop over rows, or other things, has come, if it takes long."""

    SECONDS = 10.0
    """time to the first line, and between two lines"""

    def __init__(self, what: str, total: int | None = None, about: str = "data") -> None:
        """Begin.

        Args:
            what: what is done with the rows, for example ``rows read``.
            total: number of rows, if it is known.
            about: what the lines begin with.
        """
        self.what, self.total, self.about, self.count = what, total, about, 0
        self._begun = self._said = time.monotonic()

    def add(self) -> None:
        """Count a row."""
        self.count += 1
        if (now := time.monotonic()) - self._said < self.SECONDS:
            return
        self._said = now
        line = f"{self.about}: {self.count:,} {self.what}"
        if self.total is not None:
            left = (now - self._begun) * (self.total - self.count) / self.count
            line = f"{self.about}: {self.count:,} of {self.total:,} {self.what}, about {duration(left)} left"
        tell(stderr(), line)
