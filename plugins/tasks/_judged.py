"""Prompts with their answers as token ids, and for kto with answers to other prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adapterzoo.data_row import DataRow

if TYPE_CHECKING:
    from adapterzoo.tokens.batches import Tokens


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt with its answers as token ids: the chosen and the rejected one, or only one that is wanted or not."""

    row: DataRow
    answers: tuple[Tokens, ...]
    """the prompt with each answer, which is what is learned of it"""
    wanted: tuple[bool, ...]
    """for each answer, whether it is wanted"""
    mismatched: tuple[Tokens, ...] = ()
    """for kto: for each answer, the prompt with an answer to another prompt"""
    of_base: tuple[float, ...] = ()
    """log-likelihood of each answer with the untouched base model, then of each mismatched one; empty until known"""

    @property
    def size(self) -> int:
        """Number of tokens of all answers, each with the prompt."""
        return sum(len(ids) for ids, _ in self.answers)

    @property
    def tokens(self) -> Tokens:
        """All token ids of the answers, one after the other, and whether each is in the loss."""
        ids = [token for ids, _ in self.answers for token in ids]
        return ids, [in_loss for _, learned in self.answers for in_loss in learned]

    @property
    def sequences(self) -> tuple[Tokens, ...]:
        """The answers, and then the mismatched ones."""
        return (*self.answers, *self.mismatched)


def by_place(rows: Sequence[Sequence[Tokens]]) -> list[Tokens]:
    """Return the first sequences of all rows, then the second ones."""
    return [row[place] for place in range(len(rows[0])) for row in rows]


def mean_lengths(examples: Sequence[Judged]) -> list[int]:
    """Return the mean number of tokens of the chosen and of the rejected answers, or of all answers."""
    places = range(len(examples[0].answers))
    return [round(sum(sum(e.answers[place][1]) for e in examples) / len(examples)) for place in places]


def with_mismatched(examples: Sequence[Judged], max_length: int) -> Iterator[Judged]:
    """Yield the examples of a split with, for each answer, their prompt and the last answer before to another prompt.

    TRL rotates the answers of each batch. Here they are rotated in the whole split, so that the untouched base model
    can be asked about them before the order of the rows is known. If there is no other prompt, as in TRL, the answer is
    one to the same prompt.
    """
    parts = [_parts(answer) for answer in by_place([example.answers for example in examples])]
    mismatched: list[Tokens] = []
    partner = 0
    for index, (prompt, _) in enumerate(parts):
        if index == 0:
            others = [at for at, (other, _) in enumerate(parts) if other != prompt]
            partner = others[-1] if others else len(parts) - 1
        elif parts[index - 1][0] != prompt:
            partner = index - 1
        answer = parts[partner][1]
        ids, learned = [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)
        mismatched.append((ids[:max_length], learned[:max_length]))
    for index, example in enumerate(examples):
        yield replace(example, mismatched=tuple(mismatched[index :: len(examples)]))


def _parts(sequence: Tokens) -> tuple[list[int], list[int]]:
    """Return the ids before an answer, and those of the answer."""
    ids, learned = sequence
    start = learned.index(True)
    return ids[:start], ids[start:]
