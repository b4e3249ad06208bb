"""One example as the user wrote it, whatever shape it came in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

PARTS = ("train", "validation", "test")


class BadRowError(Exception):
    """A row that is not what its format says: what is wrong with it, and the hint."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


class EmptyRowError(Exception):
    """A row with nothing in a column that is needed."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


class Turn(NamedTuple):
    """What one side says."""

    role: str
    """system, user or assistant"""
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """An example: turns that end with the assistant's answer."""

    turns: tuple[Turn, ...]
    raw: bool = False
    """the texts stand as they are, one behind the other: no chat template goes around them"""
    place: str = field(default="", compare=False)
    """file and line"""
    group: str | None = field(default=None, compare=False)
    """rows of one group never straddle splits; None: those with the same prompt are a group"""

    @classmethod
    def pair(cls, prompt: str, completion: str, place: str = "") -> Row:
        """A question and its answer."""
        return cls((Turn("user", prompt), Turn("assistant", completion)), place=place)

    @property
    def prompt(self) -> str:
        """What was asked, as one text: of a conversation, all turns before the last answer, but no system message."""
        asked = [turn for turn in self.turns[:-1] if turn.role != "system"]
        if len(asked) == 1:
            return asked[0].content
        return "\n".join(f"{turn.role}: {turn.content}" for turn in asked)

    @property
    def completion(self) -> str:
        """The answer: of a conversation, the last one."""
        return self.turns[-1].content
