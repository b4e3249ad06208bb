"""The data formats of the two tasks that learn from preferences, and pairs of answers as token ids."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adapterzoo.data_row import SPLIT_NAMES, BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.errors import UserError
from adapterzoo.formats import Conversation, Format
from adapterzoo.formats.cell_text import text_of
from adapterzoo.tasks.contract import Rows

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoder
    from adapterzoo.tokens.encoded import Example

REJECTED = "rejected"  # key of the rejected answer in DataRow.more
WANTED = "wanted"  # key in DataRow.more of whether the only answer of a row is wanted
DROP_HINT = "Correct it, or leave such rows out with data.bad_rows: drop."
TRUE, FALSE = ("true", "1"), ("false", "0")
USER = ("user", "human")


@dataclass(frozen=True)
class Answered(Format):
    """A format whose prompt and answers are each a text or a list of messages, as TRL writes them."""

    def conversation(self, cells: Mapping[str, Any], column: str) -> Sequence[Turn]:
        """Return the turns that end with the answer of a column.

        Raises:
            EmptyRowError: the prompt or the answer is empty.
            BadRowError: the messages are no conversation that ends with the assistant.
        """
        if "prompt" not in self.columns and not isinstance(cells.get(column), list | tuple):
            return [Turn("assistant", self.text(cells, column))]
        prompt = self._messages(cells, "prompt", "user") if "prompt" in self.columns else []
        answer = self._messages(cells, column, "assistant")
        # In many data sets the messages of an answer begin with the prompt. A text is the answer, even if it is the
        # same as the prompt: the past tense of cut is cut.
        if (
            isinstance(cells.get(column), list | tuple)
            and prompt
            and [*map(_content, answer[: len(prompt)])] == [*map(_content, prompt)]
        ):
            answer = answer[len(prompt) :]
        last = answer[-1].get("role") if answer and isinstance(answer[-1], Mapping) else None
        if not answer or str(last).lower() in USER:
            raise BadRowError(f"its '{column}' ends with the user.", "It must end with an answer of the assistant.")
        return Conversation("messages", (column,)).turns({column: [*prompt, *answer]})

    def _messages(self, cells: Mapping[str, Any], column: str, role: str) -> list[Any]:
        value = cells.get(column)
        if isinstance(value, list | tuple):
            if not value:
                raise EmptyRowError(column)
            return [*value]
        return [{"role": role, "content": self.text(cells, column)}]


@dataclass(frozen=True)
class Preference(Answered):
    """A format of a chosen and a rejected answer."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the turns with the chosen answer."""
        return self.conversation(cells, "chosen")

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, Hashable]:
        """Return the rejected answer."""
        *before, chosen = self.conversation(cells, "chosen")
        *before_rejected, rejected = self.conversation(cells, "rejected")
        if before != before_rejected:
            what = "its chosen and its rejected answer have different messages before them."
            raise BadRowError(what, f"Both must answer the same prompt. {DROP_HINT}")
        if chosen == rejected:
            raise BadRowError("its chosen and its rejected answer are the same.", DROP_HINT)
        return {REJECTED: rejected.content}


@dataclass(frozen=True)
class Unpaired(Answered):
    """A format of one answer, and whether it is wanted."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the turns with the answer."""
        return self.conversation(cells, "completion")

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, Hashable]:
        """Return whether the answer is wanted."""
        label = self.text(cells, "label")
        if label.lower() not in (*TRUE, *FALSE):
            what = f"its label '{label}' is neither true nor false."
            raise BadRowError(what, "Write true for an answer that is wanted, and false for one that is not.")
        return {WANTED: label.lower() in TRUE}


def _content(message: Any) -> str:
    """Return the text of a message for a comparison; the check of the conversation reports a wrong message."""
    content = message.get("content") if isinstance(message, Mapping) else None
    return text_of(content, "content").strip()


PREFERENCE = Preference("a prompt, a chosen and a rejected answer", ("prompt", "chosen", "rejected"), answer="chosen")
RANKED = Preference("a chosen and a rejected text, or two such conversations", ("chosen", "rejected"), answer="chosen")
UNPAIRED = Unpaired(
    "a prompt, a completion, and whether it is wanted", ("prompt", "completion", "label"), answer="completion"
)


def with_rejected(row: DataRow) -> DataRow:
    """Return a row with its rejected answer in the place of the chosen one."""
    rejected = dict(row.more)[REJECTED]
    return replace(row, turns=(*row.turns[:-1], Turn("assistant", str(rejected))), more=())


@dataclass(frozen=True)
class SomeRows:
    """The rows of each split, made from those of the data."""

    train: list[DataRow]
    validation: list[DataRow]
    test: list[DataRow]
    fingerprint: str

    @classmethod
    def made(cls, rows: Rows, change: Callable[[DataRow], DataRow], name: str) -> SomeRows:
        """Return changed rows; the name of the change is put behind their fingerprint."""
        splits = {split: [change(row) for row in getattr(rows, split)] for split in SPLIT_NAMES}
        return cls(**splits, fingerprint=f"{rows.fingerprint}-{name}")


def encode_pairs(encoder: Encoder, rows: Rows) -> dict[str, list[tuple[Example, Example]]]:
    """Return the chosen and the rejected answer of the rows of each split, with the same prompt before both.

    Raises:
        UserError: in a split, no row is left of which both answers fit.
    """
    from adapterzoo.tokens import cache

    say = encoder.say
    others = SomeRows.made(rows, with_rejected, REJECTED)
    chosen = cache.encode_splits(encoder, rows)
    encoder.say = lambda message: say(f"{message} (rejected answers)")
    rejected = cache.encode_splits(encoder, others)
    encoder.say = say
    pairs: dict[str, list[tuple[Example, Example]]] = {}
    for split in SPLIT_NAMES:
        own, other = getattr(rows, split), getattr(others, split)
        first = {id(example.row): example for example in getattr(chosen, split)}
        second = {id(example.row): example for example in getattr(rejected, split)}
        both = [
            (first[id(a)], second[id(b)]) for a, b in zip(own, other, strict=True) if id(a) in first and id(b) in second
        ]
        pairs[split] = [pair for pair in map(_same_prompt, both) if pair[0].completion != pair[1].completion]
        if same := len(both) - len(pairs[split]):
            say(f"data: {same} of {len(own)} rows of {split} dropped: their answers are the same when they are cut")
        if own and not pairs[split]:
            what = f"leaves no row of {split} with two different answers."
            raise UserError.at("data.max_length", what, "Raise it, or set data.truncate to prompt.")
    return pairs


def _same_prompt(pair: tuple[Example, Example]) -> tuple[Example, Example]:
    """Return both answers with the shorter of their prompts, which may have been cut for one of them."""
    prompt = min((example.prompt for example in pair), key=len)
    first, second = (
        replace(example, prompt=prompt, learned=example.learned[len(example.prompt) - len(prompt) :])
        for example in pair
    )
    return first, second
