"""The base class of formats, and the two kinds that most formats are: question and answer, and conversation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from adapterzoo.data_row import BadRowError, EmptyRowError, Turn
from adapterzoo.formats.cell_text import text_of

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
    """A format of data rows: it names their columns, and turns their cells into a conversation."""

    summary: str
    """short description, for messages"""
    columns: tuple[str, ...]
    """columns that every row must have"""
    optional: tuple[str, ...] = ()
    """columns that a row may have"""
    answer: str | None = None
    """column of the answer; None if one cell holds all turns, or if there is no question"""
    takes_all_columns: bool = False
    """whether :meth:`more` also gets the cells of all other columns, by the user's names"""

    @abstractmethod
    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the turns of a row, the answer last.

        Args:
            cells: the cells of the row, by the format's own names of the columns.

        Raises:
            EmptyRowError: the question or the answer is empty.
            BadRowError: the row does not fit this format.
        """

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, Hashable]:
        """Return what else a row has that its task needs, like a rejected answer; by default nothing.

        Args:
            cells: see :meth:`turns`.

        Raises:
            EmptyRowError: a cell that is needed is empty.
            BadRowError: the row does not fit this format.
        """
        return {}

    def text(self, cells: Mapping[str, Any], column: str) -> str:
        """Return the text of a cell, without spaces around it.

        Raises:
            EmptyRowError: the cell is empty.
        """
        text = text_of(cells.get(column), column).strip()
        if not text:
            raise EmptyRowError(column)
        return text


@dataclass(frozen=True)
class Pair(Format):
    """A format of two columns: the question and the answer."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the question and the answer of a row."""
        question, answer = self.columns
        return [Turn("user", self.text(cells, question)), Turn("assistant", self.text(cells, answer))]


@dataclass(frozen=True)
class Conversation(Format):
    """A format of one column: a list of messages, each with a role and a text."""

    role: str = "role"
    """key of a message's role"""
    content: str = "content"
    """key of a message's text"""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the turns up to the last answer: perhaps a system message, then user and assistant alternately."""
        (column,) = self.columns
        messages = cells.get(column)
        if messages is None or (isinstance(messages, Sized) and not messages):
            raise EmptyRowError(column)
        if not isinstance(messages, (list, tuple)):
            raise BadRowError(f"'{column}' is {_kind(messages)}, not a list of messages.", self._example())
        turns = [self._turn(message, number) for number, message in enumerate(messages, start=1)]
        while turns and turns[-1].role == "user":
            turns.pop()  # nothing can be learned from a question without an answer
        spoken = turns[1:] if turns and turns[0].role == "system" else turns
        if not spoken:
            raise EmptyRowError(column, "no answer in it")
        for index, turn in enumerate(spoken):
            if turn.role != ("user", "assistant")[index % 2]:
                number = index + 1 + len(turns) - len(spoken)
                if index == 0:
                    raise BadRowError(f"its conversation starts with the {turn.role}.", "It must start with the user.")
                what = f"its messages {number - 1} and {number} are both from the {turn.role}."
                if turn.role == "system":
                    what = f"its message {number} is a system message; only the first message can be one."
                raise BadRowError(what, "User and assistant must alternate: join such messages into one.")
        return turns

    def _turn(self, message: Any, number: int) -> Turn:
        if not isinstance(message, Mapping) or self.role not in message or self.content not in message:
            raise BadRowError(f"its message {number} has no '{self.role}' and '{self.content}'.", self._example())
        name = message[self.role]
        role = ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            known = ", ".join(ROLES)
            raise BadRowError(f"its message {number} has the unknown role {name!r}.", f"Known roles: {known}.")
        if isinstance(message[self.content], (list, Mapping)):
            raise BadRowError(
                f"the content of its message {number} is not text.", "Images and tool calls cannot be learned."
            )
        content = text_of(message[self.content], self.content).strip()
        if not content:
            raise EmptyRowError(self.columns[0], "an empty message")
        return Turn(role, content)

    def _example(self) -> str:
        return f'Like [{{"{self.role}": "user", "{self.content}": "..."}}, ...].'


def _kind(value: object) -> str:
    return "text" if isinstance(value, str) else f"a {type(value).__name__}"
