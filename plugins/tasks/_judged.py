"""Prompts with their answers as token ids, and for kto with answers to other prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.tasks._preferences import WANTED, read_answers, read_pairs

from adapterzoo.data_row import DataRow
from adapterzoo.tokens.kept_examples import KeptExamples
from adapterzoo.tokens.stored_examples import Made

if TYPE_CHECKING:
    from adapterzoo.tokens.batches import Tokens
    from adapterzoo.tokens.encode import Encoder


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
    def longest(self) -> int:
        """Number of tokens of the longest sequence."""
        return max(len(ids) for ids, _ in self.sequences)

    @property
    def sequences(self) -> tuple[Tokens, ...]:
        """The answers, and then the mismatched ones."""
        return (*self.answers, *self.mismatched)


def by_place(rows: Sequence[Sequence[Tokens]]) -> list[Tokens]:
    """Return the first sequences of all rows, then the second ones."""
    return [row[place] for place in range(len(rows[0])) for row in rows]


def mean_lengths(examples: Sequence[Judged]) -> list[int]:
    """Return the mean number of tokens of the chosen and of the rejected answers, or of all answers.

    For examples in a file it is that of all answers, because only their sum is known without reading them.
    """
    places = range(len(examples[0].answers))
    if isinstance(examples, KeptExamples):
        return [round(examples.learned() / len(examples) / len(places))]
    return [round(sum(sum(e.answers[place][1]) for e in examples) / len(examples)) for place in places]


def read_judged(
    split: str,
    rows: Sequence[DataRow],
    say: Callable[[str], None],
    *,
    encoder: Encoder,
    fingerprint: str,
    unpaired: bool,
) -> Iterator[tuple[int, Judged]]:
    """Yield the number of each row, and its prompt with its answers.

    Args:
        split: name of the split.
        rows: its rows.
        say: is called with messages on rows that are cut or dropped.
        encoder: turns rows into token ids.
        fingerprint: hash of the content of all rows.
        unpaired: whether a row has one answer, and whether it is wanted.
    """
    if not unpaired:
        for number, chosen, rejected in read_pairs(split, rows, say, encoder=encoder, fingerprint=fingerprint):
            yield number, Judged(rows[number], (chosen.tokens, rejected.tokens), (True, False))
        return
    for number, example in read_answers(encoder, split, rows, fingerprint, say):
        yield number, Judged(rows[number], (example.tokens,), (bool(dict(rows[number].more)[WANTED]),))


def read_mismatched(
    split: str, rows: Sequence[DataRow], say: Callable[[str], None], *, max_length: int, **given: Any
) -> Iterator[tuple[int, Judged]]:
    """Yield the same as :func:`read_judged`, each prompt also with the last answer before to another prompt, for kto.

    TRL rotates the answers of each batch. Here they are rotated in the whole split, first the chosen ones and then the
    rejected ones, so that the untouched base model can be asked about them before the order of the rows is known. If
    there is no other prompt, as in TRL, the answer is one to the same prompt.

    Args:
        split: name of the split.
        rows: its rows.
        say: is called with messages on rows that are cut or dropped.
        max_length: largest number of tokens of a prompt with an answer.
        given: see :func:`read_judged`.
    """
    first = last = other = None
    for _, example in read_judged(split, rows, lambda message: None, **given):
        first, last = first or example, example
        other = example if _prompt(example) != _prompt(first) else other
    before = partner = None
    for number, example in read_judged(split, rows, say, **given):
        prompt = _prompt(example)
        if before is not None and _prompt(before) != prompt:
            partner = before
        before = example
        if partner is not None:
            answers = partner.answers
        elif other is not None:  # the rejected answers follow the chosen ones, and the chosen ones the rejected ones
            answers = other.answers[::-1]
        else:
            assert last is not None
            answers = last.answers[-1:] * len(example.answers)
        yield number, replace(example, mismatched=tuple(_after(prompt, answer, max_length) for answer in answers))


def _prompt(example: Judged) -> list[int]:
    """Return the ids of the prompt, which all answers have before them."""
    ids, learned = example.answers[0]
    return ids[: learned.index(True)]


def _after(prompt: list[int], sequence: Tokens, max_length: int) -> Tokens:
    """Return the answer of a sequence after another prompt."""
    ids, learned = sequence
    answer = ids[learned.index(True) :]
    return [*prompt, *answer][:max_length], ([False] * len(prompt) + [True] * len(answer))[:max_length]


def sequences_of(examples: Sequence[Judged]) -> Sequence[Tokens]:
    """Return the sequences of all examples, one example after the other; each is made when it is asked for."""
    of_each = len(examples[0].sequences) if examples else 1
    places = range(len(examples) * of_each)
    return Made(places, lambda place: examples[place // of_each].sequences[place % of_each])


def with_base(known: Sequence[tuple[float, ...]], index: int, example: Judged) -> Judged:
    """Return an example with what the untouched base model says about it.

    Args:
        known: that of each example of the split.
        index: place of the example in the split.
        example: the example.
    """
    return replace(example, of_base=known[index])
