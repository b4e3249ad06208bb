"""Texts as token ids, which a causal language model learns, and how batches are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal, Self, overload

from adapterzoo.data_row import DataRow
from adapterzoo.model.row_attention import ROW_LENGTHS
from adapterzoo.tasks.examples import EvaluateSettings, Examples, Joinable, sizes
from adapterzoo.tokens.batches import Tokens, pad_batch
from adapterzoo.tokens.packing import check_separate, pack_batch
from adapterzoo.tokens.shared_prefix import SharedPrefix, model_arguments


@dataclass(frozen=True, slots=True)
class Example:
    """A row as token ids."""

    row: DataRow
    prompt: list[int]
    """ids of the tokens before the last answer"""
    completion: list[int]
    """ids of the last answer and the end token, unless the answer was cut"""
    learned: list[bool]
    """whether each token of prompt and completion is in the loss; the first is not, because nothing predicts it"""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.learned)

    @property
    def tokens(self) -> Tokens:
        """All token ids, and whether each is in the loss."""
        return [*self.prompt, *self.completion], self.learned


@dataclass(frozen=True, kw_only=True)
class Encoded(Examples):
    """The examples of all splits as texts that a causal language model learns.

    The padding token is an end token only if the tokenizer has no other token for padding.
    """

    trainer_computes_loss = True
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    end_ids: list[int]
    """ids of the tokens that end an answer"""
    answer_header: str = ""
    """text that the chat template has before an answer, after the generation prompt"""
    notes: list[str] = field(default_factory=list)
    """messages to the user: which rows were dropped and cut"""
    packs: Sequence[list[Tokens]] = field(default_factory=list)
    """the training rows in packs; empty without packing"""

    @property
    def loss_unit(self) -> Literal["tokens"]:
        """See :attr:`Examples.loss_unit`."""
        return "tokens"

    def joinable(self, settings: EvaluateSettings) -> Joinable:
        """See :meth:`Examples.joinable`."""
        wanted, splits = settings.max_new_tokens, [split for split in (self.train, self.validation, self.test) if split]
        answer, prompt = (max(max(lengths(split, part)) for split in splits) for part in ("completion", "prompt"))
        most = int(prompt) + max(int(answer), 0 if wanted == "auto" else wanted)
        return Joinable(LongestFirst(self.train, self.test), max(most, self.longest_shown))

    def check_model(self, model: Any) -> None:
        """See :meth:`Examples.check_model`: the attention of packed rows must be separate."""
        if self.packs:
            check_separate(model, self.packs, self.pad_id)

    def arguments(self, batch: dict[str, Any], model: Any) -> dict[str, Any]:
        """See :meth:`Examples.arguments`."""
        if ROW_LENGTHS in batch:
            return model_arguments(batch, model)
        # The attention mask of packed rows only serves to count tokens.
        return {name: value for name, value in batch.items() if not (self.packs and name == "attention_mask")}

    def training_only(self) -> Self:
        """See :meth:`Examples.training_only`; the rows are not packed."""
        return replace(self, tokenizer=None, validation=[], test=[], packs=[])

    @property
    def training_rows(self) -> Sequence[Any]:
        """The rows of training batches: packs of examples if the recipe packs, else examples."""
        return self.packs or self.train

    def collate(self, rows: Sequence[Any], prefix: SharedPrefix | None = None) -> dict[str, Any]:
        """Return a batch of training rows; with ``prefix``, they are joined in one sequence if that costs less."""
        if self.packs:
            return pack_batch(rows, self.pad_id)
        tokens = [row.tokens for row in rows]
        return pad_batch(tokens, self.pad_id) if prefix is None else prefix.batch(tokens, self.pad_id)


def lengths(examples: Sequence[Example], part: str) -> Sequence[int]:
    """Return the number of tokens of each example's ``prompt`` or ``completion``."""
    known: Callable[[str], Sequence[int]] | None = getattr(examples, "lengths", None)
    return [len(getattr(example, part)) for example in examples] if known is None else known(part)


class LongestFirst(Sequence[Tokens]):
    """The tokens of the longest example of training and of the test, and then those of all training examples.

    If there are no training examples, those of all test examples.
    """

    def __init__(
        self, train: Sequence[Any], test: Sequence[Any], tokens: Callable[[Any], Tokens] = attrgetter("tokens")
    ) -> None:
        self.tokens = tokens
        self.examples = train or test
        self.first = [split[_longest(split)] for split in (train, test) if split]

    def __len__(self) -> int:
        return len(self.first) + len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index] - len(self.first)
        return self.tokens(self.first[number] if number < 0 else self.examples[number])


def _longest(examples: Sequence[Example]) -> int:
    """Return the position of the first example with the most tokens."""
    known = sizes(examples)
    return max(range(len(known)), key=lambda position: known[position])
