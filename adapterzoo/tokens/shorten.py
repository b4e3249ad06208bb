"""Cuts examples that are too long, so that what is learned survives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adapterzoo.data_row import DataRow

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoder, Example


def shorten(encoder: Encoder, example: Example, longer: int) -> Example | None:
    """An example without so many of its tokens, as the recipe wants them cut; None where nothing would be learned."""
    how = encoder.data.truncate
    if how == "drop":
        return None
    if how == "completion" or not example.prompt:
        return _without_end(example, longer)
    # The oldest turns go first; then the middle of the longest question, so that what is asked for, at its
    # beginning or its end, stays.
    row, limit = example.row, len(example.learned) - longer
    while len(example.learned) > limit and (shorter := _without_oldest(row)) is not None:
        row = shorter
        example = replace(encoder.example(row), row=example.row)
    longer = len(example.learned) - limit
    return example if longer <= 0 else _without_middle(encoder, example, row, longer)


def _without_end(example: Example, longer: int) -> Example | None:
    """Without the end of its answer."""
    if longer >= len(example.completion):
        return None
    return replace(example, completion=example.completion[:-longer], learned=example.learned[:-longer])


def _without_oldest(row: DataRow) -> DataRow | None:
    """Without its oldest question and answer; None where there is only one."""
    system = [turn for turn in row.turns if turn.role == "system"]
    spoken = [turn for turn in row.turns if turn.role != "system"]
    return DataRow((*system, *spoken[2:]), row.raw, row.place) if len(spoken) > 2 else None


def _without_middle(encoder: Encoder, example: Example, row: DataRow, longer: int) -> Example | None:
    """Without the middle of the longest question; None where that is not enough."""
    question = max((turn.content for turn in row.turns[:-1] if turn.role == "user"), key=len)
    asked = "".join(segment.text for segment in encoder.chat.segments(row)[:-1])
    at = asked.rfind(question)
    head = encoder.size(asked[:at]) + len(encoder.begins)
    tail = encoder.size(asked[at + len(question) :])
    free = len(example.prompt) - head - tail
    if at < 0 or free <= longer:
        return None
    begin = head + (free - longer) // 2
    return replace(
        example,
        prompt=example.prompt[:begin] + example.prompt[begin + longer :],
        learned=example.learned[:begin] + example.learned[begin + longer :],
    )
