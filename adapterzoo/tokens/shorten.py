"""Cut examples that are too long, and keep what is learned."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adapterzoo.data_row import DataRow

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoder
    from adapterzoo.tokens.encoded import Example


def shorten(encoder: Encoder, example: Example, excess: int) -> Example | None:
    """Return an example that is cut as the recipe says; None if nothing would be left to learn.

    Args:
        encoder: the encoder that made the example.
        example: an example that is too long.
        excess: smallest number of tokens to remove.
    """
    how = encoder.data.truncate
    if how == "drop":
        return None
    # A text without a question has nothing else that could be cut, also after a start token.
    if how == "completion" or all(turn.role != "user" for turn in example.row.turns):
        return _without_end(example, excess)
    # Remove the oldest turns first, then the middle of the longest question, because its beginning or its end usually
    # says what is asked.
    row, limit = example.row, len(example.learned) - excess
    while len(example.learned) > limit and (shorter := _without_oldest(row)) is not None:
        row = shorter
        example = replace(encoder.example(row), row=example.row)
    excess = len(example.learned) - limit
    return example if excess <= 0 else _without_middle(encoder, example, row, excess)


def _without_end(example: Example, excess: int) -> Example | None:
    """Return an example without the end of its answer; None if nothing of the answer would be left."""
    if excess >= len(example.completion):
        return None
    return replace(example, completion=example.completion[:-excess], learned=example.learned[:-excess])


def _without_oldest(row: DataRow) -> DataRow | None:
    """Return a row without its oldest question and answer; None if it has only one question."""
    system = [turn for turn in row.turns if turn.role == "system"]
    dialog = [turn for turn in row.turns if turn.role != "system"]
    return DataRow((*system, *dialog[2:]), row.raw, row.place) if len(dialog) > 2 else None


def _without_middle(encoder: Encoder, example: Example, row: DataRow, excess: int) -> Example | None:
    """Return an example without the middle of its longest question; None if that question is too short."""
    question = max((turn.content for turn in row.turns[:-1] if turn.role == "user"), key=len)
    asked = "".join(segment.text for segment in encoder.chat.segments(row)[:-1])
    position = asked.rfind(question)
    tokens_before = encoder.token_count(asked[:position]) + len(encoder.start_ids)
    tokens_after = encoder.token_count(asked[position + len(question) :])
    question_tokens = len(example.prompt) - tokens_before - tokens_after
    if position < 0 or question_tokens <= excess:
        return None
    start = tokens_before + (question_tokens - excess) // 2
    return replace(
        example,
        prompt=example.prompt[:start] + example.prompt[start + excess :],
        learned=example.learned[:start] + example.learned[start + excess :],
    )
