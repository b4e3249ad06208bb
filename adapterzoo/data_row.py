"""A row of the user's data, in one form for all formats in which it may be written."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

SPLIT_NAMES = ("train", "validation", "test")


class BadRowError(Exception):
    """The error for a row that does not fit its format: what is wrong with the row, and a hint."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


class EmptyRowError(Exception):
    """The error for a row that is empty in a column that must have text."""

    def __init__(self, column: str, reason: str = "") -> None:
        super().__init__(f"{column} ({reason})" if reason else column)
        self.column, self.reason = column, reason


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """system, user or assistant"""
    content: str


@dataclass(frozen=True, slots=True)
class DataRow:
    """One example: the turns of a conversation, which ends with the assistant's answer."""

    turns: tuple[Turn, ...]
    raw: bool = False
    """whether the texts are joined as they are, without a chat template"""
    place: str = field(default="", compare=False)
    """file and line of the row"""
    group: str | None = field(default=None, compare=False)
    """group of the row; rows of one group are in the same split. If None, rows with the same prompt are one group"""

    more: tuple[tuple[str, Hashable], ...] = ()
    """name -> what else the row has that its task needs, as pairs"""

    @classmethod
    def pair(cls, prompt: str, completion: str, place: str = "") -> DataRow:
        """Return the row of one question and its answer."""
        return cls((Turn("user", prompt), Turn("assistant", completion)), place=place)

    @property
    def prompt(self) -> str:
        """Return the question as one text: all turns before the last answer, without the system message."""
        asked = [turn for turn in self.turns[:-1] if turn.role != "system"]
        if len(asked) == 1:
            return asked[0].content
        return "\n".join(f"{turn.role}: {turn.content}" for turn in asked)

    @property
    def completion(self) -> str:
        """Return the answer; in a conversation, the last answer."""
        return self.turns[-1].content


@dataclass
class Places:
    """The rows of one kind: how many they are, and where the first one is."""

    count: int = 0
    first: str = ""
    last: str | None = None

    def add(self, place: str) -> None:
        """Add a row."""
        self.first = self.first if self.count else place
        self.last = place
        self.count += 1
