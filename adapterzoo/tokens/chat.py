"""How turns become the text that a model reads: its chat template, a plain one, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterzoo.data.row import Row, Turn
from adapterzoo.errors import UserError
from adapterzoo.recipe import DataSection


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
        self.asks = self.plain or self._asks()
        if not self.asks:
            say("model: its chat template has no generation prompt; what it writes before an answer is asked with")
        self.folds_system = not self.plain and not self._takes_system()
        self._say = say
        self._said_fold = False

    def segments(self, row: Row, shots: Sequence[Row] = ()) -> list[Segment]:
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
            return _raw(turns, len(turns) - len(row.turns))
        if self.plain:
            return _plain(turns, len(turns) - len(row.turns))
        return self._templated(self._folded(turns))

    def _with_system(self, row: Row) -> list[Turn]:
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

    def _templated(self, turns: Sequence[Turn]) -> list[Segment]:
        """Each answer is found in the whole text behind the text that asks for it: no template need mark it."""
        whole = self._render(turns, ask=False)
        segments: list[Segment] = []
        done = 0
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            before = self._render(turns[:number], ask=True)
            begins = len(before)
            found = whole.find(turn.content, begins)
            if not whole.startswith(before) or begins < done:
                raise self._unusable("changes the prompt once there is an answer")
            if found < 0:
                raise self._unusable("does not write an answer as it is given")
            end, ended = self._end(whole, found + len(turn.content))
            if not self.asks and whole[begins:found].strip():
                # Without a generation prompt, what stands in front of every answer is part of what asks for it.
                begins = found
            last = number == len(turns) - 1
            segments.append(Segment(whole[done:begins]))
            segments.append(Segment(whole[begins:end], answer=True, ends=last and not ended))
            done = end
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
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        except Exception as error:  # jinja's own errors, and whatever else a template runs into
            raise self._unusable(f"refuses the turns ({str(error).splitlines()[0]})") from None
        return text

    def _unusable(self, what: str) -> UserError:
        template = "its chat template" if self._where == "model" else "the template"
        return UserError.at(self._where, f"{template} {what}.", "Give data.chat_template another template, or plain.")

    def _asks(self) -> bool:
        """Whether the template writes something that asks for an answer, or nothing is in front of answers at all."""
        asked, answered = [Turn("user", "xuserx")], [Turn("user", "xuserx"), Turn("assistant", "xanswerx")]
        plain, before = self._render(asked, ask=False), self._render(asked, ask=True)
        header = self._render(answered, ask=False)[len(before) :].partition("xanswerx")[0]
        return plain != before or not header.strip()

    def _takes_system(self) -> bool:
        """Whether the template writes a system message down."""
        probe = [Turn("system", "xsystemx"), Turn("user", "xuserx")]
        try:
            return "xsystemx" in self._render(probe, ask=True)
        except UserError:
            return False


def _raw(turns: Sequence[Turn], shown: int) -> list[Segment]:
    """The texts as they are; those that are only shown, with an empty line behind each."""
    before = [
        Segment(turn.content + ("\n\n" if turn.role == "assistant" else ""))
        for number, turn in enumerate(turns[:-1])
        if turn.content or number < shown
    ]
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
