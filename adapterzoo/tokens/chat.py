"""How turns become the text that a model reads: its chat template, a plain one, or none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from adapterzoo.data_row import DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.recipe.schema import DataSection

PROBE = "xanswerx"
# The day on which every run takes place, for chat templates that write it into their prompts: a row must not become
# another one overnight. The day that Llama 3's templates take where they are given none.
DAY = datetime(2024, 7, 26)
TODAY = re.compile(r"""strftime_now\(\s*(['"])(?P<format>.*?)\1\s*\)""")


@dataclass(frozen=True)
class Segment:
    """A stretch of an example's text."""

    text: str
    answer: bool = False
    """whether the assistant says it"""
    ends: bool = False
    """whether the tokenizer's end token follows, which the text does not hold"""


class Chat:
    """Writes turns for one tokenizer. Announces which template it takes, and what that cannot write."""

    def __init__(self, tokenizer: Any, data: DataSection, say: Callable[[str], None]) -> None:
        """Choose the template; one from a file is given to the tokenizer, and saved with it.

        Raises:
            UserError: the file of the template cannot be read or parsed.
        """
        self.tokenizer = tokenizer
        self.system = data.system
        self._where = "model"
        if data.chat_template not in ("auto", "plain"):
            tokenizer.chat_template = _read(Path(data.chat_template))
            self._where = data.chat_template
        self.plain = data.chat_template == "plain" or not tokenizer.chat_template
        if self.plain and data.chat_template == "auto":
            say("model: its tokenizer has no chat template; prompt and answer are put on lines of their own")
        self._say = say
        self._said_fold = False
        self.asks = True
        self.left_out: list[str] = []
        """where rows are of which the template does not write all that is asked"""
        if self.plain:
            return
        own = tokenizer.get_chat_template()
        self._template = TODAY.sub(lambda call: repr(DAY.strftime(call["format"])), own)
        if self._template != own:
            say(f"model: its chat template writes the date; it is {DAY.day} {DAY:%B %Y} for every row, today and later")
        # What the template writes between its generation prompt and an answer: the last one, and those before.
        probe = [Turn("user", "xuserx"), Turn("assistant", PROBE)]
        self._headers = {True: self._header(probe, 1), False: self._header([*probe, *probe], 1)}
        prompted = self._render(probe[:1], ask=True) != self._render(probe[:1], ask=False)
        self.asks = prompted or not self._headers[True].strip()
        if not self.asks:
            say("model: its chat template has no generation prompt; what it writes before an answer is asked with")
        self.folds_system = not self._takes_system()
        whole = self._render(probe, ask=False)
        if PROBE in whole and probe[0].content not in whole:
            raise self._unusable("leaves out the question")

    def segments(self, row: DataRow, shots: Sequence[DataRow] = ()) -> list[Segment]:
        """The text of an example, in order; what the assistant says is apart. The last one is the answer.

        Args:
            shots: examples shown before it, with their answers.

        Raises:
            UserError: the chat template refuses the turns, or changes earlier turns once there is an answer.
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
        return self._templated(self._folded(turns), row.place)

    def _with_system(self, row: DataRow) -> list[Turn]:
        if self.system and not row.raw and row.turns[0].role != "system":
            return [Turn("system", self.system)]
        return []

    def _folded(self, turns: list[Turn]) -> list[Turn]:
        """With the system message in front of the first question, where the template has no place for it."""
        if not self.folds_system or turns[0].role != "system":
            return turns
        if not self._said_fold:
            self._say("model: its chat template takes no system message; it is put before the first question")
            self._said_fold = True
        return [Turn("user", f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]]

    def _templated(self, turns: Sequence[Turn], place: str) -> list[Segment]:
        """Each answer is found in the whole text behind the text that asks for it: no template need mark it."""
        whole = self._render(turns, ask=False)
        segments: list[Segment] = []
        done = 0
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            last = number == len(turns) - 1
            before = self._render(turns[:number], ask=True)
            begins = len(before)
            if not whole.startswith(before) or begins < done:
                raise self._unusable("changes the prompt once there is an answer")
            header = self._headers[last]
            if not whole.startswith(header + turn.content, begins):
                header = self._header(turns, number)
            if not whole.startswith(header + turn.content, begins):
                raise self._unusable("does not write an answer as it is given")
            found = begins + len(header)
            end, ended = self._end(whole, found + len(turn.content))
            # Without a generation prompt, what stands in front of every answer is part of what asks for it.
            begins = begins if self.asks else found
            segments.append(Segment(whole[done:begins]))
            segments.append(Segment(whole[begins:end], answer=True, ends=last and not ended))
            done = end
        # Answers are left aside: they may repeat the question. Templates may take away spaces around a text, no more.
        asked = "".join(segment.text for segment in segments if not segment.answer)
        if not all(turn.content.strip() in asked for turn in turns if turn.role != "assistant"):
            self.left_out.append(place)
        return segments

    def _end(self, whole: str, at: int) -> tuple[int, bool]:
        """Behind the token that ends the turn; and whether there is one."""
        rest = whole[at:]
        spaces = len(rest) - len(rest.lstrip())
        for token in self._specials():
            if rest.startswith(token, spaces):
                return at + spaces + len(token), True
        return at, False

    def _specials(self) -> list[str]:
        return sorted(self.tokenizer.all_special_tokens, key=len, reverse=True)

    def _render(self, turns: Sequence[Turn], *, ask: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:  # jinja's own errors, and whatever else a template runs into
            raise self._unusable(f"refuses the turns ({str(error).splitlines()[0]})") from None
        return text

    def _unusable(self, what: str) -> UserError:
        template = "its chat template" if self._where == "model" else "the template"
        return UserError.at(self._where, f"{template} {what}.", "Give data.chat_template another template, or plain.")

    def _header(self, turns: Sequence[Turn], number: int) -> str:
        """What stands between the text that asks for an answer and the answer, found with one that is unmistakable."""
        asked = self._render(turns[:number], ask=True)
        whole = self._render([*turns[:number], Turn("assistant", PROBE), *turns[number + 1 :]], ask=False)
        at = whole.find(PROBE, len(asked))
        return whole[len(asked) : at] if at >= 0 else ""

    def _takes_system(self) -> bool:
        """Whether the template writes a system message down."""
        probe = [Turn("system", "xsystemx"), Turn("user", "xuserx")]
        try:
            return "xsystemx" in self._render(probe, ask=True)
        except UserError:
            return False


def _raw(turns: Sequence[Turn]) -> list[Segment]:
    """The texts as they are; those that are only shown, with an empty line behind each."""
    before = [Segment(f"{turn.content}\n\n" if turn.role == "assistant" else turn.content) for turn in turns[:-1]]
    return [*before, Segment(turns[-1].content, answer=True, ends=True)]


def _plain(turns: Sequence[Turn], shown: int) -> list[Segment]:
    """Each turn on lines of its own. Answers end with the end token, but for those that are only shown."""
    segments = []
    for number, turn in enumerate(turns):
        last = number == len(turns) - 1
        if turn.role == "assistant":
            segments.append(Segment(turn.content, answer=True, ends=number >= shown))
            segments += [] if last else [Segment("\n\n")]
        else:
            segments.append(Segment(turn.content + ("\n\n" if turn.role == "system" else "\n")))
    return segments


def _read(path: Path) -> str:
    import jinja2

    try:
        text = path.read_text(encoding="utf-8")
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError.at(str(path), f"cannot be read: {error}.") from None
    except jinja2.TemplateSyntaxError as error:
        if "generation" not in str(error):  # a tag of transformers' own
            raise UserError.at(f"{path}:{error.lineno}", f"is no Jinja template: {error.message}.") from None
    if not text.strip():
        raise UserError.at(str(path), "is empty.", "Give data.chat_template another template, or plain.")
    return text
