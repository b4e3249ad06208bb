"""Texts as token ids, which a causal language model learns, and how batches are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from adapterzoo.data_row import DataRow
from adapterzoo.model.row_attention import ROW_LENGTHS
from adapterzoo.tasks.examples import EvaluateSettings, Examples, Joinable
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
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    end_ids: list[int]
    """ids of the tokens that end an answer"""
    notes: list[str] = field(default_factory=list)
    """messages to the user: which rows were dropped and cut"""
    packs: list[list[Tokens]] = field(default_factory=list)
    """the training rows in packs; empty without packing"""

    @property
    def loss_unit(self) -> Literal["tokens"]:
        """See :attr:`Examples.loss_unit`."""
        return "tokens"

    def joinable(self, settings: EvaluateSettings) -> Joinable:
        """See :meth:`Examples.joinable`."""
        examples: list[Example] = [*self.train, *self.validation, *self.test]
        wanted = settings.max_new_tokens
        answer = max(len(example.completion) for example in examples)
        prompt = max(len(example.prompt) for example in examples)
        first = [max((example.tokens for example in split), key=_length) for split in (self.train, self.test) if split]
        rows = [*first, *(example.tokens for example in self.train or self.test)]
        return Joinable(rows, max(prompt + max(answer, 0 if wanted == "auto" else wanted), self.longest_shown))

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


def _length(row: Tokens) -> int:
    return len(row[0])
