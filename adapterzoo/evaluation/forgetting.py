"""Forgetting: how much less likely general text is after training than it was to the base."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import NotFiniteError, UserError
from adapterzoo.evaluation.evaluate import Likelihood, likelihoods
from adapterzoo.recipe.schema import SHIPPED
from adapterzoo.tokens.batches import Tokens

if TYPE_CHECKING:
    from torch import nn

# Of a text: enough for an interval of a hundredth of a nat, in seconds.
PARAGRAPHS = 256
LENGTH = 512
CURE = "Name a text file in UTF-8, or 'shipped'."


def general_rows(named: str, tokenizer: Any, limit: int | None) -> list[Tokens]:
    """The paragraphs of a general text as token ids, learned from the second on; long ones are cut.

    Args:
        named: ``shipped``, or a file in UTF-8 with blank lines between its paragraphs.
        limit: how many tokens the model reads.

    Raises:
        UserError: the file cannot be read, or has no paragraphs of two tokens.
    """
    rows = []
    for paragraph in _paragraphs(named):
        ids = tokenizer(paragraph)["input_ids"][: min(LENGTH, limit or LENGTH)]
        if len(ids) > 1:
            rows.append((ids, [False] + [True] * (len(ids) - 1)))
        if len(rows) == PARAGRAPHS:
            break
    if not rows:
        raise UserError.at(f"evaluate.general_text: {named}", "holds no text.", CURE)
    return rows


def _paragraphs(named: str) -> list[str]:
    source: Any = resources.files("adapterzoo.evaluation") / "general_text.txt" if named == SHIPPED else Path(named)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError.at(f"evaluate.general_text: {named}", f"cannot be read: {reason}.", CURE) from None
    blocks = "\n".join(line.rstrip() for line in text.splitlines()).split("\n\n")
    return [block.strip() for block in blocks if block.strip()]


class General:
    """The general text, and what the base makes of it."""

    def __init__(self, rows: Sequence[Tokens], pad_id: int, batch_size: int) -> None:
        self.rows, self.pad_id, self.batch_size = rows, pad_id, batch_size

    def measure(self, model: nn.Module) -> list[Likelihood]:
        """How likely each paragraph is to a model."""
        return likelihoods(model, self.rows, self.pad_id, self.batch_size)

    @staticmethod
    def change(before: Sequence[Likelihood], after: Sequence[Likelihood]) -> tuple[float, list[dict[str, float]]]:
        """By how many nats a token became less likely, and the losses of each paragraph.

        Raises:
            NotFiniteError: the loss is none any more.
        """
        tokens = sum(one.tokens for one in before)
        change = sum(new.loss - old.loss for old, new in zip(before, after, strict=True)) / tokens
        if not abs(change) < float("inf"):
            raise NotFiniteError(f"the loss on general text changed by {change}")
        lines = [
            {"index": i, "base_loss": old.loss, "loss": new.loss, "tokens": old.tokens}
            for i, (old, new) in enumerate(zip(before, after, strict=True))
        ]
        return change, lines
