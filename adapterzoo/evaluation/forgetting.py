"""Measure forgetting: how much less likely the trained model finds a general text than the base model does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import NotFiniteError, UserError
from adapterzoo.evaluation.likelihood import likelihoods
from adapterzoo.recipe.schema import SHIPPED
from adapterzoo.tasks.evaluation import Likelihood
from adapterzoo.tokens.batches import Tokens

if TYPE_CHECKING:
    from torch import nn

# A text of this size takes seconds to measure, and the interval of forgetting is a hundredth of a nat wide.
MAX_PARAGRAPHS = 256
MAX_TOKENS = 512  # longer paragraphs are cut
MAX_CHARACTERS = 2**20  # no tokenizer makes less than MAX_TOKENS of them
HINT = "Give a text file in UTF-8, or 'shipped'."


def general_rows(named: str, tokenizer: Any, limit: int | None) -> list[Tokens]:
    """Return the paragraphs of a general text as token ids; all tokens but the first are learned tokens.

    Args:
        named: ``shipped``, or a text file in UTF-8 with blank lines between its paragraphs.
        tokenizer: the model's tokenizer.
        limit: number of tokens that the model can read at most; None if it does not say.

    Raises:
        UserError: the file cannot be read, or has no paragraph of at least two tokens.
    """
    rows = []
    for paragraph in _paragraphs(named):
        ids = tokenizer(paragraph)["input_ids"][: min(MAX_TOKENS, limit or MAX_TOKENS)]
        if len(ids) > 1:
            rows.append((ids, [False] + [True] * (len(ids) - 1)))
        if len(rows) == MAX_PARAGRAPHS:
            break
    if not rows:
        raise UserError.at(f"evaluate.general_text: {named}", "holds no text.", HINT)
    return rows


def _paragraphs(named: str) -> Iterator[str]:
    """Yield the paragraphs of a text one after the other, because only the first ones of a long file are needed."""
    source: Any = resources.files("adapterzoo.evaluation") / "general_text.txt" if named == SHIPPED else Path(named)
    try:
        with source.open(encoding="utf-8") as file:
            parts = iter(partial(file.readline, MAX_CHARACTERS), "")
            lines = (line.rstrip() for part in parts for line in part.splitlines())
            for has_text, block in groupby(lines, bool):
                if has_text:
                    yield _joined(block).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError.at(f"evaluate.general_text: {named}", f"cannot be read: {reason}.", HINT) from None


def _joined(lines: Iterable[str]) -> str:
    """Return the lines of a paragraph, of which a very long one keeps only the beginning: no more would be used."""
    kept, characters = [], 0
    for line in lines:
        if characters <= MAX_CHARACTERS:
            kept.append(line)
        characters += len(line)
    return "\n".join(kept)


class General:
    """The general text, tokenized, and how to measure it."""

    def __init__(self, rows: Sequence[Tokens], pad_id: int, batch_size: int) -> None:
        self.rows, self.pad_id, self.batch_size = rows, pad_id, batch_size

    def measure(self, model: nn.Module) -> list[Likelihood]:
        """Return the likelihood of each paragraph with a model."""
        return likelihoods(model, self.rows, self.pad_id, self.batch_size, losses_only=True)

    @staticmethod
    def change(before: Sequence[Likelihood], after: Sequence[Likelihood]) -> tuple[float, list[dict[str, float]]]:
        """Return the rise of the loss per token, in nats, and a record of each paragraph's losses.

        Args:
            before: the paragraphs' likelihoods with the base model.
            after: their likelihoods with the trained model.

        Raises:
            NotFiniteError: the loss is NaN or infinite after training.
        """
        tokens = sum(paragraph.tokens for paragraph in before)
        change = sum(new.loss - old.loss for old, new in zip(before, after, strict=True)) / tokens
        if not abs(change) < float("inf"):
            raise NotFiniteError(f"the loss on general text changed by {change}")
        records = [
            {"index": i, "base_loss": old.loss, "loss": new.loss, "tokens": old.tokens}
            for i, (old, new) in enumerate(zip(before, after, strict=True))
        ]
        return change, records
