"""Texts as token ids for models that read a whole text and do not continue it: classifiers and encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.data_row import DataRow
from adapterzoo.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text, or a pair of texts, as token ids."""

    row: DataRow
    ids: list[int]
    segments: list[int]
    """for each token, whether it belongs to the first text (0) or to the second (1); empty if the model needs none"""
    target: Any
    """what is learned from the text, as the task writes it"""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """All token ids; none of them is in the loss."""
        return self.ids, [False] * len(self.ids)


def check_offsets(tokenizer: Any) -> None:
    """Raise UserError if a tokenizer does not say where in a text each token begins and ends."""
    if not tokenizer.is_fast:
        what = "its tokenizer does not say which part of a text each token stands for."
        raise UserError.at("model", what, "Choose a model with a tokenizer.json.")


def read_texts(
    split: str,
    rows: Sequence[DataRow],
    say: Callable[[str], None],
    *,
    tokenizer: Any,
    target: Callable[[DataRow], Any],
    max_length: int,
) -> Iterator[tuple[int, ReadText]]:
    """Yield the number of each row and the texts before its answer as token ids, cut to a length.

    Args:
        split: name of the split, for messages.
        rows: the rows of a split, each with one or two texts.
        say: is called with a message on the rows that were cut.
        tokenizer: the model's tokenizer.
        target: returns what is learned from a row.
        max_length: largest number of tokens.
    """
    cut = 0
    for number, row in enumerate(rows):
        texts = [turn.content for turn in row.turns[:-1]]
        encoded = tokenizer(*texts, truncation=False, verbose=False)
        if len(encoded["input_ids"]) > max_length:
            encoded = tokenizer(*texts, truncation=True, max_length=max_length)
            cut += 1
        segments = list(encoded.get("token_type_ids") or [])
        yield number, ReadText(row, list(encoded["input_ids"]), segments, target(row))
    if cut:
        say(f"data: {cut} of {len(rows)} texts of {split} are cut to fit max_length = {max_length}")


def pad_right(examples: Sequence[ReadText], pad_id: int) -> dict[str, torch.Tensor]:
    """Return texts as one batch, each tensor of shape (texts, longest text), padded on the right."""
    import torch

    width = max(example.size for example in examples)

    def padded(values: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in values])

    batch = {
        "input_ids": padded([example.ids for example in examples], pad_id),
        "attention_mask": padded([[1] * example.size for example in examples], 0),
    }
    if examples[0].segments:
        batch["token_type_ids"] = padded([example.segments for example in examples], 0)
    return batch
