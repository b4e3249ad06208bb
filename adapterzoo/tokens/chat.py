"""Write the turns of a row as the text that a model reads: by a chat template, on separate lines, or unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from adapterzoo.data_row import DataRow, Places, Turn
from adapterzoo.errors import UserError
from adapterzoo.machine.limits import TooLongError, limited_memory, stopped_after
from adapterzoo.tasks.contract import DataSettings
from adapterzoo.tokens.template import FIXED_DATE, with_fixed_date

PROBE_ANSWER = "xanswerx"
# A template is code that comes with a model. Writing a row takes it some milliseconds, unless it is to do harm.
MAX_SECONDS = 5
MAX_MORE_BYTES = 2**30
MAX_TIMES = 10  # as many characters as the row has
MAX_ADDED_CHARACTERS = 100_000


@dataclass(frozen=True)
class Segment:
    """A part of an example's text."""

    text: str
    is_answer: bool = False
    """whether the text is an answer of the assistant"""
    adds_end: bool = False
    """whether the tokenizer's end token has to be added after the text"""


class Chat:
    """Writes turns as text for one tokenizer, and tells the user which chat template it uses."""

    def __init__(self, tokenizer: Any, data: DataSettings, say: Callable[[str], None]) -> None:
        """Choose between the tokenizer's chat template and plain lines.

        Args:
            tokenizer: as :func:`~adapterzoo.tokens.template.with_template` returned it.
            data: the recipe's data section.
            say: is called with messages about the chat template.
        """
        self.tokenizer = tokenizer
        self.system = data.system
        self._where = "model"
        if data.chat_template not in ("auto", "plain"):
            self._where = data.chat_template
        self.plain = data.chat_template == "plain" or not tokenizer.chat_template
        if self.plain and data.chat_template == "auto":
            say("model: its tokenizer has no chat template; prompt and answer are written on separate lines")
        self._say = say
        self._announced_fold = False
        self.has_generation_prompt = True
        self.answer_header = ""
        """text that the model has to write before the last answer, because it follows the generation prompt"""
        self.incomplete = Places()
        """the rows in which the chat template leaves out or changes a question or a system message"""
        if self.plain:
            return
        with self._limits():
            self._examine()

    def _examine(self) -> None:
        """Find out what the chat template writes around a question and an answer.

        Raises:
            UserError: no model can learn from what it writes.
        """
        try:
            template = self.tokenizer.get_chat_template()
        except ValueError:
            raise self._unusable("has several forms, and none of them is called default") from None
        self._template = with_fixed_date(template)
        if self._template != template:
            date = f"{FIXED_DATE.day} {FIXED_DATE:%B %Y}"
            self._say(f"model: its chat template writes the current date; every row gets {date} instead")
        probe = [Turn("user", "xuserx"), Turn("assistant", PROBE_ANSWER)]
        self._headers = {True: self._header(probe, 1), False: self._header([*probe, *probe], 1)}
        """whether an answer is the last one -> text that the template writes between generation prompt and answer"""
        prompted = self._render(probe[:1], ask=True) != self._render(probe[:1], ask=False)
        self.has_generation_prompt = prompted or not self._headers[True].strip()
        if not self.has_generation_prompt:
            what = "its chat template has no generation prompt; the text before an answer is part of the prompt"
            self._say(f"model: {what}")
        elif self._headers[True].strip():
            self.answer_header = self._headers[True]
            what = f"its chat template writes {self.answer_header.strip()!r} before an answer"
            self._say(f"model: {what}; the model learns to write it, and it is no part of the answer that is scored")
        self.folds_system = not self._takes_system()
        whole = self._render(probe, ask=False)
        if PROBE_ANSWER in whole and probe[0].content not in whole:
            raise self._unusable("leaves out the question")

    def segments(self, row: DataRow, shots: Sequence[DataRow] = ()) -> list[Segment]:
        """Return the text of an example in segments. Each answer is one segment, and the last segment is an answer.

        Args:
            row: the example.
            shots: examples that are shown before it, with their answers.

        Raises:
            UserError: the chat template cannot write these turns, or changes earlier turns when an answer follows.
        """
        turns = [*self._with_system(row), *row.turns]
        if shots:
            system = [turn for turn in turns if turn.role == "system"]
            shown = [turn for shot in shots for turn in shot.turns if turn.role != "system"]
            turns = [*system, *shown, *(turn for turn in turns if turn.role != "system")]
        if row.raw:
            return _raw(turns)
        if self.plain:
            return _plain(turns, len(turns) - len(row.turns))
        with self._limits(row.place):
            return self._templated(self._folded(turns), row.place)

    def _with_system(self, row: DataRow) -> list[Turn]:
        if self.system and not row.raw and row.turns[0].role != "system":
            return [Turn("system", self.system)]
        return []

    def _folded(self, turns: list[Turn]) -> list[Turn]:
        """Return the turns, with the system message in the first question if the template does not write one."""
        if not self.folds_system or turns[0].role != "system":
            return turns
        if not self._announced_fold:
            self._say("model: its chat template accepts no system message; the first question begins with it instead")
            self._announced_fold = True
        return [Turn("user", f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]]

    def _templated(self, turns: Sequence[Turn], place: str) -> list[Segment]:
        """Return the segments that the chat template writes.

        Each answer is found after the text that asks for it, so that the template does not have to mark answers.
        """
        whole = self._render(turns, ask=False)
        segments: list[Segment] = []
        previous_end = 0
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            last = number == len(turns) - 1
            before = self._render(turns[:number], ask=True)
            start = len(before)
            if not whole.startswith(before) or start < previous_end:
                raise self._unusable("changes the prompt when an answer follows")
            header = self._headers[last]
            if not whole.startswith(header + turn.content, start):
                header = self._header(turns, number)
            if not whole.startswith(header + turn.content, start):
                raise self._unusable("does not write an answer as it is given")
            answer_start = start + len(header)
            end, has_end = self._end(whole, answer_start + len(turn.content))
            # Without a generation prompt, the text in front of an answer is part of the prompt.
            start = start if self.has_generation_prompt else answer_start
            segments.append(Segment(whole[previous_end:start]))
            segments.append(Segment(whole[start:end], is_answer=True, adds_end=last and not has_end))
            previous_end = end
        # Search for questions outside the answers, which may repeat them, and without spaces that templates may strip.
        asked = "".join(segment.text for segment in segments if not segment.is_answer)
        complete = all(turn.content.strip() in asked for turn in turns if turn.role != "assistant")
        if not complete and place != self.incomplete.last:  # a row is written several times if it is cut
            self.incomplete.add(place)
        return segments

    def _end(self, whole: str, answer_end: int) -> tuple[int, bool]:
        """Return the index after the special token that follows an answer, and whether there is such a token."""
        rest = whole[answer_end:]
        spaces = len(rest) - len(rest.lstrip())
        for token in self._special_tokens():
            if rest.startswith(token, spaces):
                return answer_end + spaces + len(token), True
        return answer_end, False

    def _special_tokens(self) -> list[str]:
        """Return the texts of the special tokens, the longest first."""
        return sorted(self.tokenizer.all_special_tokens, key=len, reverse=True)

    def _render(self, turns: Sequence[Turn], *, ask: bool) -> str:
        """Return what the chat template writes, with a generation prompt if ``ask`` is set."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=ask
            )
        except MemoryError:
            raise
        except Exception as error:  # the code of a template may raise any error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise self._unusable(f"refuses the turns ({reason})") from None
        content = sum(len(turn.content) for turn in turns)
        if len(text) > MAX_TIMES * content + MAX_ADDED_CHARACTERS:
            raise self._unusable(f"writes {len(text):,} characters for a row of {content:,}")
        return text

    @contextmanager
    def _limits(self, place: str = "") -> Iterator[None]:
        """Raise UserError in a ``with`` block in which the chat template takes too much time or memory for a row."""
        row = f" for {place}" if place else ""
        try:
            with stopped_after(MAX_SECONDS), limited_memory(MAX_MORE_BYTES):
                yield
        except TooLongError:
            raise self._unusable(f"was stopped: it ran for more than {MAX_SECONDS:g} seconds{row}") from None
        except MemoryError:
            what = f"was stopped: it took more than {MAX_MORE_BYTES / 2**30:g} GB of memory{row}"
            raise self._unusable(what) from None

    def _unusable(self, what: str) -> UserError:
        template = "its chat template" if self._where == "model" else "the template"
        return UserError.at(self._where, f"{template} {what}.", "Give data.chat_template another template, or plain.")

    def _header(self, turns: Sequence[Turn], number: int) -> str:
        """Return the text between the generation prompt and an answer; to find it, write a probe as the answer."""
        asked = self._render(turns[:number], ask=True)
        whole = self._render([*turns[:number], Turn("assistant", PROBE_ANSWER), *turns[number + 1 :]], ask=False)
        index = whole.find(PROBE_ANSWER, len(asked))
        return whole[len(asked) : index] if index >= 0 else ""

    def _takes_system(self) -> bool:
        """Tell whether the template writes a system message."""
        probe = [Turn("system", "xsystemx"), Turn("user", "xuserx")]
        try:
            return "xsystemx" in self._render(probe, ask=True)
        except UserError:
            return False


def _raw(turns: Sequence[Turn]) -> list[Segment]:
    """Return the texts as they are, with an empty line after the answer of each example that is only shown."""
    before = [Segment(f"{turn.content}\n\n" if turn.role == "assistant" else turn.content) for turn in turns[:-1]]
    return [*before, Segment(turns[-1].content, is_answer=True, adds_end=True)]


def _plain(turns: Sequence[Turn], shown: int) -> list[Segment]:
    """Return each turn on its own lines. Answers get the end token, except in the first ``shown`` turns."""
    segments = []
    for number, turn in enumerate(turns):
        last = number == len(turns) - 1
        if turn.role == "assistant":
            segments.append(Segment(turn.content, is_answer=True, adds_end=number >= shown))
            segments += [] if last else [Segment("\n\n")]
        else:
            segments.append(Segment(turn.content + ("\n\n" if turn.role == "system" else "\n")))
    return segments
