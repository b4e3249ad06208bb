"""What a format is, and the kind that most are: a question's columns and an answer's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo.formats.cell_text import text_of
from adapterzoo.row import BadRowError, EmptyRowError, Turn

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


@dataclass(frozen=True)
class Format(ABC):
    """A shape of rows."""

    summary: str
    columns: tuple[str, ...]
    """that every row must have"""
    optional: tuple[str, ...] = ()
    answer: str | None = None
    """the column that is learned; None where a cell holds all turns, or there is no question"""

    @abstractmethod
    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """The turns of a row, the answer last.

        Args:
            cells: by the format's own names of the columns.

        Raises:
            EmptyRowError: the question or the answer is empty.
            BadRowError: the row is not of this format.
        """

    def text(self, cells: Mapping[str, Any], column: str) -> str:
        """A cell's text, stripped.

        Raises:
            EmptyRowError: there is none.
        """
        text = text_of(cells.get(column), column).strip()
        if not text:
            raise EmptyRowError(column)
        return text


@dataclass(frozen=True)
class Pair(Format):
    """Two columns: what is asked, and what is answered."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """A question and its answer."""
        question, answer = self.columns
        return [Turn("user", self.text(cells, question)), Turn("assistant", self.text(cells, answer))]


@dataclass(frozen=True)
class Conversation(Format):
    """One column with a list of messages, each with a role and a text."""

    role: str = "role"
    content: str = "content"

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """The messages, checked: a system message if any, then user and assistant in turn, up to an answer."""
        (column,) = self.columns
        messages = cells.get(column)
        if messages is None or len(messages) == 0:
            raise EmptyRowError(column)
        if not isinstance(messages, (list, tuple)):
            raise BadRowError(f"'{column}' is {_kind(messages)}, not a list of messages.", self._wanted())
        turns = [self._turn(message, number) for number, message in enumerate(messages, start=1)]
        while turns and turns[-1].role == "user":
            turns.pop()  # a question that nobody answered teaches nothing
        spoken = turns[1:] if turns and turns[0].role == "system" else turns
        if not spoken:
            raise EmptyRowError(f"{column} (no answer in it)")
        for number, turn in enumerate(spoken):
            wanted = ("user", "assistant")[number % 2]
            if turn.role != wanted:
                at = number + 1 + len(turns) - len(spoken)
                if number == 0:
                    raise BadRowError(f"its conversation starts with the {turn.role}.", "It must start with the user.")
                what = f"its message {at} is the {turn.role}'s, as is the one before it."
                if turn.role == "system":
                    what = f"its message {at} is a system message; there is one at most, in front."
                raise BadRowError(what, "User and assistant must take turns: join such messages into one.")
        return turns

    def _turn(self, message: Any, number: int) -> Turn:
        if not isinstance(message, Mapping) or self.role not in message or self.content not in message:
            raise BadRowError(f"its message {number} has no '{self.role}' and '{self.content}'.", self._wanted())
        name = message[self.role]
        role = ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            raise BadRowError(f"its message {number} has the unknown role {name!r}.", f"Known: {', '.join(ROLES)}.")
        if isinstance(message[self.content], (list, Mapping)):
            raise BadRowError(
                f"the content of its message {number} is no text.", "Images and tool calls cannot be learned."
            )
        content = text_of(message[self.content], self.content).strip()
        if not content:
            raise EmptyRowError(f"{self.columns[0]} (an empty message)")
        return Turn(role, content)

    def _wanted(self) -> str:
        return f'Like [{{"{self.role}": "user", "{self.content}": "..."}}, ...].'


def _kind(value: object) -> str:
    return "text" if isinstance(value, str) else f"a {type(value).__name__}"
