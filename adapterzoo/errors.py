"""What a person at the terminal did wrong, said with the place and the hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is (file and line, option, data row), what is wrong, what would be right."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.hint}" if self.hint else "")


class AdapterzooError(Exception):
    """The root of all errors that adapterzoo raises on purpose."""


class UserError(AdapterzooError):
    """Mistakes that their author can mend. The command line prints them without a traceback and exits with 2."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))

    @classmethod
    def at(cls, where: str, what: str, hint: str = "") -> UserError:
        """One problem, as an error."""
        return cls(Problem(where, what, hint))


class ProcessEndedError(AdapterzooError):
    """A process ended before it had done its work: it crashed, or was killed."""


class NotFiniteError(AdapterzooError):
    """A loss became NaN or infinite: the cell has failed, whatever the trainer would log for it."""


class PluginError(AdapterzooError):
    """A plugin broke the method contract. Names the plugin and what it returned."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'steps'?`` for the nearest known name, else the list of all, else nothing."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.6)
    if near:
        # Of names that are equally near, the one that begins alike: the first letter is seldom mistyped.
        likeness = difflib.SequenceMatcher(b=name.lower())
        best = max(near, key=lambda one: (_ratio(likeness, one), one[:1] == name.lower()[:1]))
        return f"Did you mean '{best}'?"
    return f"There is: {', '.join(known)}." if known else ""


def _ratio(likeness: difflib.SequenceMatcher[str], one: str) -> float:
    likeness.set_seq1(one)
    return likeness.ratio()
