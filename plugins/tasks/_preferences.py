"""The data formats of the two tasks that learn from preferences, and pairs of answers as token ids."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adapterzoo.data.stored_rows import changed
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.errors import UserError
from adapterzoo.formats import Conversation, Format
from adapterzoo.formats.cell_text import text_of

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


@dataclass(frozen=True, kw_only=True)
class OneSplit:
    """The rows of one split."""

    train: Sequence[DataRow] = ()
    validation: Sequence[DataRow] = ()
    test: Sequence[DataRow] = ()
    fingerprint: str


def read_pairs(
    split: str,
    rows: Sequence[DataRow],
    say: Callable[[str], None],
    *,
    encoder: Encoder,
    fingerprint: str,
    change: Callable[[DataRow], DataRow] | None = None,
) -> Iterator[tuple[int, Example, Example]]:
    """Yield the number of each row, its chosen and its rejected answer, with the same prompt before both.

    Args:
        split: name of the split.
        rows: its rows.
        say: is called with messages on rows that are cut or dropped.
        encoder: turns rows into token ids.
        fingerprint: hash of the content of all rows, and the name of the change.
        change: changes each row before it is encoded; None for no change.

    Raises:
        UserError: no row is left of which both answers fit.
    """
    import numpy

    from adapterzoo.tokens.stored_examples import row_numbers

    chosen = rows if change is None else changed(rows, change)
    first = _encoded(encoder, split, chosen, f"{fingerprint}-{split}", say)
    others, note = changed(chosen, with_rejected), " (rejected answers)"
    second = _encoded(encoder, split, others, f"{fingerprint}-{split}-{REJECTED}", lambda message: say(message + note))
    numbers, places, other_places = numpy.intersect1d(
        row_numbers(first, chosen), row_numbers(second, others), assume_unique=True, return_indices=True
    )
    kept = 0
    for number, place, other_place in zip(numbers, places, other_places, strict=True):
        a, b = _same_prompt((first[place], second[other_place]))
        if a.completion != b.completion:
            kept += 1
            yield int(number), a, b
    if same := len(numbers) - kept:
        say(f"data: {same} of {len(rows)} rows of {split} dropped: their answers are the same when they are cut")
    if rows and not kept:
        what = f"leaves no row of {split} with two different answers."
        raise UserError.at("data.max_length", what, "Raise it, or set data.truncate to prompt.")


def read_answers(
    encoder: Encoder, split: str, rows: Sequence[DataRow], fingerprint: str, say: Callable[[str], None]
) -> Iterator[tuple[int, Example]]:
    """Yield the number of each row and its answer; see :func:`read_pairs`."""
    from adapterzoo.tokens.stored_examples import row_numbers

    examples = _encoded(encoder, split, rows, f"{fingerprint}-{split}", say)
    yield from zip(map(int, row_numbers(examples, rows)), examples, strict=True)


def _encoded(
    encoder: Encoder, split: str, rows: Sequence[DataRow], fingerprint: str, say: Callable[[str], None]
) -> Sequence[Example]:
    """Return rows of one split as token ids, perhaps from the cache."""
    if not rows:
        return []
    from adapterzoo.tokens import cache

    usual, encoder.say = encoder.say, say
    try:
        encoded = cache.encode_splits(encoder, OneSplit(**{split: rows}, fingerprint=fingerprint))
    finally:
        encoder.say = usual
    examples: Sequence[Example] = getattr(encoded, split)
    return examples


def _same_prompt(pair: tuple[Example, Example]) -> tuple[Example, Example]:
    """Return both answers with the shorter of their prompts, which may have been cut for one of them."""
    prompt = min((example.prompt for example in pair), key=len)
    first, second = (
        replace(example, prompt=prompt, learned=example.learned[len(example.prompt) - len(prompt) :])
        for example in pair
    )
    return first, second
