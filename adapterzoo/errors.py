"""The errors of adapterzoo, and the problems that are shown to users: where, what is wrong, and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


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


def failure_reason(error: BaseException) -> str:
    """Return the reason for a failure, in one line."""
    text: str = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "not enough memory" in text.lower():
        return f"out of memory: {text}"[:300]
    return (text if isinstance(error, AdapterzooError) else f"{type(error).__name__}: {text}")[:300]
