"""The data formats of questions whose answer is a part of a context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo.data_row import BadRowError, EmptyRowError, Turn
from adapterzoo.formats import Format
from adapterzoo.formats.cell_text import kind_of, text_of
from adapterzoo.metrics.built_in.squad import SEPARATOR

ANSWERS = "answers"  # key of a row's answers in DataRow.more: pairs of a text and its start in the context
MAX_QUOTED = 60  # number of letters of an answer that a message shows
EXAMPLE = 'Like {"text": ["in 1889"], "answer_start": [17]}; both lists are empty if there is no answer.'
LETTERS = "An answer must be a part of its context, letter by letter."


@dataclass(frozen=True)
class FromContext(Format):
    """A format of a question, a context and answers, which are parts of the context."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the question and the context, and all right answers as one text; it is empty if there is none."""
        question, context = self.text(cells, "question"), self._context(cells)
        answers = dict.fromkeys(" ".join(text.split()) for text, _ in self._found(cells))
        return [Turn("user", question), Turn("user", context), Turn("assistant", SEPARATOR.join(answers))]

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Return the answers of a row, each with its start in the context."""
        return {ANSWERS: tuple(self._found(cells))}

    def _context(self, cells: Mapping[str, Any]) -> str:
        """Return the context with the white space around it, because the starts of answers count it."""
        context = text_of(cells.get("context"), "context")
        if not context.strip():
            raise EmptyRowError("context")
        return context

    def _found(self, cells: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        """Yield the text and the start of each answer.

        Raises:
            BadRowError: an answer is not in the context at its start.
        """
        context = self._context(cells)
        given = _listed(cells.get(ANSWERS)) if ANSWERS in self.columns else _single(cells)
        for value, start in given:
            text = text_of(value, self.columns[-1])
            if not text.strip():
                raise BadRowError("one of its answers is empty.", "A question without an answer has no answers at all.")
            place = _start(context, text, start)
            yield text.strip(), place + len(text) - len(text.lstrip())


def _single(cells: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return the only answer of a row and its start, which may be None; an empty cell is a question without answer."""
    answer = text_of(cells.get("answer"), "answer")
    return [(answer, cells.get("start"))] if answer.strip() else []


def _listed(answers: Any) -> list[tuple[Any, Any]]:
    """Return the answers of a cell, each with its start, which may be None.

    Raises:
        BadRowError: the cell is not written as SQuAD does it.
    """
    if kind_of(answers) is None:
        return []
    if isinstance(answers, list | tuple) and all(isinstance(one, Mapping) and "text" in one for one in answers):
        return [(one["text"], one.get("answer_start")) for one in answers]
    if not isinstance(answers, Mapping) or not isinstance(answers.get("text"), list | tuple):
        raise BadRowError(f"its answers are {kind_of(answers)}, without a list under 'text'.", EXAMPLE)
    texts, starts = answers["text"], answers.get("answer_start")
    if starts is None:
        return [(text, None) for text in texts]
    if not isinstance(starts, list | tuple) or len(starts) != len(texts):
        raise BadRowError(f"it has {len(texts)} answers, and not as many starts under 'answer_start'.", EXAMPLE)
    return list(zip(texts, starts, strict=True))


def _start(context: str, text: str, start: Any) -> int:
    """Return where an answer starts in its context: the given start, or else the first place where it occurs.

    Raises:
        BadRowError: the answer is not there.
    """
    first, shown = context.find(text), text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
    if (given := text_of(start, "start").strip()) == "":
        if first < 0:
            raise BadRowError(f"its answer '{shown}' is not in its context.", LETTERS)
        return first
    try:
        place = int(float(given))
    except (ValueError, OverflowError):
        hint = "Give the number of letters in front of the answer, or no start."
        raise BadRowError(f"the start of its answer, '{given}', is not a number.", hint) from None
    if place < 0 or not context.startswith(text, place):
        hint = LETTERS if first < 0 else f"It is at {first}: correct the start, or give none."
        raise BadRowError(f"its answer '{shown}' is not in its context at {place}.", hint)
    return place
