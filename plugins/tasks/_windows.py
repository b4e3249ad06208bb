"""Questions with their contexts as token ids; a long context is read in windows that overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo_plugins.tasks._contexts import ANSWERS, MAX_QUOTED
from pydantic import Field

from adapterzoo import Options, Problem, UserError
from adapterzoo.data_row import DataRow
from adapterzoo.tokens.sequences import ReadText

MAX_SHOWN = 5  # further rows with the same problem are not named


class QuestionAnsweringOptions(Options):
    """The options of the task."""

    stride: int = Field(
        128,
        ge=0,
        description="tokens that neighbouring windows have in common, at most half of a window",
    )
    max_answer_length: int = Field(30, ge=1, description="largest number of tokens of the model's answers")


@dataclass(frozen=True, slots=True)
class Window(ReadText):
    """A question and a part of its context as token ids; ``target`` is the first and the last token of the answer.

    If the answer is not in this part, ``target`` is None. If the question has no answer, both are the first token.
    """

    begin: int
    """position of the first token of the context"""
    offsets: list[tuple[int, int]]
    """for each token of the context in this window, the places in the context where it begins and ends"""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its context as token ids."""

    row: DataRow
    learned: Window
    """the window with the answer"""
    windows: list[Window]
    """all windows in which the answer is looked for; empty for training rows, which are not measured"""

    @property
    def size(self) -> int:
        """Number of tokens of the longest window."""
        return max(window.size for window in (self.learned, *self.windows))

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """All token ids of the window with the answer, and for each whether it belongs to the answer."""
        first, last = self.learned.target
        return self.learned.ids, [first <= position <= last for position in range(self.learned.size)]


@dataclass(frozen=True)
class _Whole:
    """A question and its whole context as token ids."""

    ids: list[int]
    segments: list[int]
    """for each token, whether it belongs to the question (0) or the context (1); empty if the model needs none"""
    begin: int
    """position of the first token of the context"""
    offsets: list[tuple[int, int]]
    """for each token of the context, the places in the context where it begins and ends"""

    def window(self, row: DataRow, begin: int, room: int, answer: tuple[int, int] | None) -> Window:
        """Return the question with a part of the context.

        Args:
            row: the row.
            begin: index of the first token of the part, among the tokens of the context.
            room: largest number of tokens of the part.
            answer: indices of the first and the last token of the answer; None if the question has no answer.
        """
        end = min(begin + room, len(self.offsets))
        kept = [
            *range(self.begin),
            *range(self.begin + begin, self.begin + end),
            *range(self.begin + len(self.offsets), len(self.ids)),
        ]
        target: tuple[int, int] | None = (0, 0)
        if answer is not None:
            inside = begin <= answer[0] and answer[1] < end
            target = (self.begin + answer[0] - begin, self.begin + answer[1] - begin) if inside else None
        ids, segments = ([values[place] for place in kept] if values else [] for values in (self.ids, self.segments))
        return Window(row, ids, segments, target, self.begin, self.offsets[begin:end])


class Reader:
    """Turns rows into token ids for one model."""

    def __init__(self, tokenizer: Any, max_length: int, options: QuestionAnsweringOptions) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.options = options
        self.problems: list[Problem] = []
        """rows whose answer cannot be marked"""
        texts = tokenizer("a", "b").sequence_ids(0)
        # The tokenizers of decoders often put nothing between two texts.
        self._separates = texts[texts.index(1) - 1] != 0

    def questions(
        self, split: str, rows: Sequence[DataRow], say: Callable[[str], None]
    ) -> Iterator[tuple[int, Question]]:
        """Yield the number of each row and its question, and tell the user which contexts and answers are long.

        Raises:
            UserError: the answers of some rows cannot be marked.
        """
        long = unreachable = 0
        for number, row in enumerate(rows):
            windows, learned = self._windows(row)
            if learned is None:
                continue
            long += len(windows) > 1
            first, last = learned.target
            unreachable += last - first >= self.options.max_answer_length
            yield number, Question(row, learned, [] if split == "train" else windows)
        if self.problems:
            raise UserError(*self.problems[:MAX_SHOWN])
        of = f"of {len(rows)}"
        if long:
            how = "a window with the answer is learned" if split == "train" else "each is read in several windows"
            what = f"data: {long} {of} contexts of {split} do not fit into max_length = {self.max_length} tokens"
            say(f"{what}: {how}")
        if unreachable:
            limit = f"max_answer_length = {self.options.max_answer_length} tokens"
            say(f"data: {unreachable} {of} answers of {split} are longer than {limit}")

    def _windows(self, row: DataRow) -> tuple[list[Window], Window | None]:
        """Return the windows of a row, and the one to learn; None if the answer cannot be marked in any."""
        whole = self._whole(row)
        room = self.max_length - (len(whole.ids) - len(whole.offsets))
        answer = self._answer_tokens(row, whole)
        size = 1 if answer is None else answer[1] - answer[0] + 1
        if room < size:
            what = f"its question leaves {max(room, 0)} of {self.max_length} tokens for the context"
            hint = "Raise data.max_length, or leave the row out."
            self.problems.append(Problem(row.place, f"{what}, and its answer has {size}.", hint))
        if room < size or size == 0 or not whole.offsets:
            return [], None
        step = room - min(self.options.stride, room // 2)
        last = max(len(whole.offsets) - room, 0)
        windows = [whole.window(row, begin, room, answer) for begin in range(0, last + step, step)]
        # Learn the window that shows most of the context on both sides of the answer.
        learned = max((window for window in windows if window.target), key=_margin, default=None)
        if learned is None and answer is not None:
            middle = answer[0] - (room - size) // 2
            learned = whole.window(row, max(0, min(middle, last)), room, answer)
        return windows, learned

    def _whole(self, row: DataRow) -> _Whole:
        """Return a question and its whole context as token ids."""
        question, context = (turn.content for turn in row.turns[:-1])
        settings = {"return_offsets_mapping": True, "verbose": False}
        if self._separates:
            both = self.tokenizer(question, context, **settings)
            texts = both.sequence_ids(0)
            begin = texts.index(1) if 1 in texts else len(texts)
            offsets = both["offset_mapping"][begin : begin + texts.count(1)]
            return _Whole(list(both["input_ids"]), list(both.get("token_type_ids") or []), begin, offsets)
        asked = list(self.tokenizer(f"{question}\n", verbose=False)["input_ids"])
        read = self.tokenizer(context, add_special_tokens=False, **settings)
        return _Whole([*asked, *read["input_ids"]], [], len(asked), read["offset_mapping"])

    def _answer_tokens(self, row: DataRow, whole: _Whole) -> tuple[int, int] | None:
        """Return the indices of an answer's first and last token, among those of its context; None without an answer.

        If the tokenizer drops all letters of the answer, a problem is noted, and the last index is below the first.
        """
        answers: Any = dict(row.more)[ANSWERS]
        if not answers:
            return None
        text, start = answers[0]
        inside = [
            index for index, (begin, end) in enumerate(whole.offsets) if min(end, start + len(text)) > max(begin, start)
        ]
        if not inside:
            what = f"the model's tokenizer drops its whole answer, '{text[:MAX_QUOTED]}'."
            self.problems.append(Problem(row.place, what, "Leave the row out, or choose another model."))
            return 0, -1
        return inside[0], inside[-1]


def _margin(window: Window) -> int:
    """Return how much of the context a window shows on the side of the answer where it shows less of it."""
    first, last = window.target
    margin: int = min(first - window.begin, window.begin + len(window.offsets) - 1 - last)
    return margin
