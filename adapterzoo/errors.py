"""The errors of adapterzoo, and the problems that are shown to users: where, what is wrong, and a hint."""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe, in data or in arguments."""

    where: str
    """the place: a file and line, an option or a data row"""
    what: str
    """what is wrong, as a sentence"""
    hint: str = ""
    """what to do about it, as a sentence"""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.hint}" if self.hint else "")


class AdapterzooError(Exception):
    """The base class of all errors that adapterzoo raises on purpose."""


class UserError(AdapterzooError):
    """Mistakes that the user can correct. The command line prints them without a traceback and exits with 2."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[Problem, ...]]:
        """Keep the problems when the error is sent to another process."""
        return type(self), self.problems

    @classmethod
    def at(cls, where: str, what: str, hint: str = "") -> UserError:
        """Return an error with one problem."""
        return cls(Problem(where, what, hint))


class ProcessEndedError(AdapterzooError):
    """A process crashed, or was killed, before its work was done."""


class NotFiniteError(AdapterzooError):
    """A loss became NaN or infinite. The cell then fails, although the trainer would only log it."""


class PluginError(AdapterzooError):
    """A plugin does not do what the contract of methods or metrics asks for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the most similar known name (``Did you mean 'steps'?``), or a list of all."""
    known = sorted(known)
    similar = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.6)
    if similar:
        # Among equally similar names prefer one with the same first letter, which people seldom mistype.
        matcher = difflib.SequenceMatcher(b=name.lower())
        best = max(similar, key=lambda word: (_similarity(matcher, word), word[:1] == name.lower()[:1]))
        return f"Did you mean '{best}'?"
    return f"Choose from: {', '.join(known)}." if known else ""


def _similarity(matcher: difflib.SequenceMatcher[str], word: str) -> float:
    matcher.set_seq1(word)
    return matcher.ratio()


# torch and safetensors raise errors of their own if memory or the disk is full. Their messages have these words.
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
NO_ROOM = (
    "no space left on device", "disk quota exceeded", "pytorchstreamwriter failed writing", "iostream error",
    "] . unexpected pos",
)  # fmt: skip


class AloneError(BaseException):
    """One of the processes of a cell alone has failed: the others wait for it, so that the cell cannot go on.

    It is no ``Exception``, so that code which goes on after a failed trial or measurement does not catch it.
    """


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that led to it, says that a disk is full."""
    while error is not None:
        of_system = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if of_system or any(words in str(error).lower() for words in NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def origin(error: BaseException) -> traceback.FrameSummary | None:
    """Return the place in the code where an error was raised; None if it was never raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1] if frames else None


def failure_reason(error: BaseException) -> str:
    """Return the reason for a failure, in one line; for an error without a message, the place where it was raised."""
    text: str = " ".join(str(error).split())
    if not text:
        place = origin(error)
        where = f"in {place.name}, {Path(place.filename).name}:{place.lineno}" if place else "elsewhere"
        text = f"raised {where}, without a message"
    if isinstance(error, MemoryError) or any(words in text.lower() for words in NO_MEMORY):
        return f"out of memory: {text}"[:300]
    if is_disk_full(error):
        return f"the disk is full: {text}"[:300]
    return (text if isinstance(error, (AdapterzooError, AloneError)) else f"{type(error).__name__}: {text}")[:300]
