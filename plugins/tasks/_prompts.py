"""The data format of the task reinforcement, and its prompts as token ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Places, Turn
from adapterzoo.errors import UserError
from adapterzoo.formats import Conversation, Format
from adapterzoo.formats._format import ROLES
from adapterzoo.formats.cell_text import Number, text_of

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoder


@dataclass(frozen=True)
class Prompts(Format):
    """A format of a prompt, which is a text or a list of messages, and of cells for rewards."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the turns of the prompt, and then the right answer; it is empty if the row has none."""
        answer = Turn("assistant", text_of(cells.get("answer"), "answer").strip())
        messages = cells.get("prompt")
        if not isinstance(messages, list | tuple):
            return [Turn("user", self.text(cells, "prompt")), answer]
        if not messages:
            raise EmptyRowError("prompt")
        last = messages[-1].get("role") if isinstance(messages[-1], Mapping) else None
        if ROLES.get(str(last).lower()) != "user":
            raise BadRowError(f"its prompt ends with the role {last!r}.", "It must end with a message of the user.")
        some_answer = {"role": "assistant", "content": "an answer"}  # a conversation cannot end with the user
        *before, _ = Conversation("messages", ("prompt",)).turns({"prompt": [*messages, some_answer]})
        return [*before, answer]

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, Hashable]:
        """Return all cells of the row as texts; lists and mappings as JSON."""
        return {name: _text(value, name) for name, value in cells.items()}


PROMPT = Prompts(
    "a prompt, perhaps the right answer, and columns for rewards",
    ("prompt",),
    ("answer",),
    answer="answer",
    takes_all_columns=True,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as token ids."""

    row: DataRow
    index: int
    """number of the prompt in its split"""
    prompt: list[int]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.prompt)

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """The token ids; none of them is in the loss."""
        return self.prompt, [False] * self.size


def read_prompts(
    split: str, rows: Sequence[DataRow], say: Callable[[str], None], *, encoder: Encoder, longest: int
) -> Iterator[tuple[int, Asked]]:
    """Yield the number of each row and its prompt, if that has at most so many tokens; tell how many have more.

    Raises:
        UserError: all of them have more.
    """
    if longest < 1:
        what = f"leaves no room for a prompt beside task.max_new_tokens: {1 - longest} more tokens are needed at least."
        raise UserError.at("data.max_length", what, "Raise it, or lower task.max_new_tokens.")
    encoder.chat.incomplete = Places()
    kept, shortest = 0, sys.maxsize
    for number, row in enumerate(rows):
        ids = encoder.prompt(row)
        shortest = min(shortest, len(ids))
        if len(ids) <= longest:
            yield number, Asked(row, kept, ids)
            kept += 1
    for note in encoder.notes_on_texts(split, rows):
        say(note)
    if rows and not kept:
        what = f"leaves {longest} tokens for a prompt of {split}, and the shortest has {shortest}."
        raise UserError.at("data.max_length", what, "Raise it, or lower task.max_new_tokens.")
    if dropped := len(rows) - kept:
        say(f"data: {dropped} of {len(rows)} rows of {split} dropped: their prompts have more than {longest} tokens")


def _text(value: Any, column: str) -> str:
    if isinstance(value, list | tuple | dict):
        return json.dumps(_plain(value), ensure_ascii=False, default=str)
    return text_of(value, column)


def _plain(value: Any) -> Any:
    """Return a cell with numbers where a JSON file has numbers."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return json.loads(value) if isinstance(value, Number) else value
