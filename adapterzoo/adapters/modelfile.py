"""Write the Modelfile that tells Ollama how prompts look: its template is read off the chat template of the run.

Ollama has templates in Go's language, and no translator of Jinja. So conversations of probes are written by the code
that wrote the training rows, and what stands between the probes becomes a template. Other conversations are then
written both ways, and a chat template that cannot be reproduced is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from adapterzoo.adapters.loading import answer_tokens, question_row
from adapterzoo.data_row import DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.recipe.data import DataSection
from adapterzoo.tokens.encode import Encoder

GGUF_NAME = "model.gguf"
SYSTEM = "xsystemx"
QUESTIONS = ("xquestionax", "xquestionbx", "xquestioncx")
ANSWERS = ("xanswerax", "xanswerbx")
WHERE = "--as ollama"
HINT = "Give --as gguf, and write the template yourself."


class Pieces(NamedTuple):
    """The texts that a chat template writes around the messages of a conversation."""

    opening: str
    """before the first question, if there is no system message"""
    system_before: str
    system_after: str
    """between the system message and the first question"""
    question_after: str
    """after a question; the model answers here"""
    answer_before: str
    """before an answer that is followed by another question, after the text that follows the question"""
    answer_after: str
    """between an answer and the next question"""

    def prompt(self, turns: Sequence[Turn]) -> str:
        """Return what the model reads before it answers the last question."""
        around = {
            "system": (self.system_before, self.system_after),
            "user": ("", self.question_after),
            "assistant": (self.answer_before, self.answer_after),
        }
        start = "" if turns[0].role == "system" else self.opening
        return start + "".join(around[role][0] + content + around[role][1] for role, content in turns)

    def go_template(self) -> str:
        """Return the same as a template in Go's language, with the variables that Ollama gives."""
        opening, *others = map(_literal, self)
        system_before, system_after, question_after, answer_before, answer_after = others
        content = "{{ .Content }}"
        return (
            (f"{{{{ if not .System }}}}{opening}{{{{ end }}}}" if opening else "")
            + f'{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}{system_before}{content}{system_after}'
            + f'{{{{ else if eq .Role "user" }}}}{content}{question_after}'
            + f'{{{{ else if eq .Role "assistant" }}}}{answer_before}{content}{answer_after}'
            + "{{ end }}{{ end }}"
        )


def modelfile(encoder: Encoder, data: DataSection) -> str:
    """Return the Modelfile for a GGUF file beside it.

    Args:
        encoder: wrote the training rows of the run.
        data: data section of the recipe.

    Raises:
        UserError: the chat template cannot be written as a template of Ollama.
    """
    example = encoder.example(question_row(data, QUESTIONS[0]))
    ends = answer_tokens(encoder, example.row).end_ids
    lines = [f"FROM ./{GGUF_NAME}", f"TEMPLATE {_quoted(read_pieces(encoder, data).go_template())}"]
    lines += [f"SYSTEM {_quoted(data.system)}"] if data.system and not example.row.raw else []
    lines += [f"PARAMETER stop {_quoted(encoder.tokenizer.decode([token]))}" for token in ends]
    # Take the likeliest token each time, as the table does. By default, Ollama makes repeated tokens less likely.
    return "\n".join([*lines, "PARAMETER temperature 0", "PARAMETER repeat_penalty 1", ""])


def read_pieces(encoder: Encoder, data: DataSection) -> Pieces:
    """Return what the chat template writes around messages, without the start token, which the runtime adds.

    Raises:
        UserError: it depends on more than the roles of the messages.
    """
    # In the encoder's data, a template of the user's own is already that of the tokenizer.
    unasked = data.model_copy(update={"system": None, "chat_template": encoder.data.chat_template})
    plain = Encoder(encoder.tokenizer, unasked)
    start = encoder.tokenizer.bos_token if adds_start_token(encoder, data) else ""

    def written(turns: Sequence[Turn]) -> str:
        return _written(plain, _row(turns, data)).removeprefix(start)

    system, first = Turn("system", SYSTEM), _question(data, QUESTIONS[0])
    opening, _ = _split(written([first]), [QUESTIONS[0]])
    before, after, asked = _split(written([system, first]), [SYSTEM, QUESTIONS[0]])
    turns = _conversation(data, 2)
    _, answered, follows, _ = _split(written(turns), [QUESTIONS[0], ANSWERS[0], QUESTIONS[1]])
    pieces = Pieces(opening, before, after, asked, answered.removeprefix(asked), follows)
    for turns in (_conversation(data, 1), _conversation(data, 2), _conversation(data, 3)):
        for messages in (turns, [system, *turns]):
            bare = [Turn(turn.role, _content(turn)) for turn in messages]
            if pieces.prompt(bare) != written(messages):
                what = "its chat template writes a message in another way if it stands elsewhere in the conversation."
                raise UserError.at(WHERE, what, HINT)
    return pieces


def adds_start_token(encoder: Encoder, data: DataSection) -> bool:
    """Tell whether a runtime has to put the start token in front of prompts.

    It has to if the tokenizer does so with a text, unless the chat template of the training wrote none.
    """
    start = [encoder.tokenizer.bos_token_id]
    return list(encoder.start_ids[:1]) == start and encoder.prompt(_row([Turn("user", "?")], data))[:1] == start


def _question(data: DataSection, text: str) -> Turn:
    """Return a question as the recipe's template writes it."""
    *asked, _ = question_row(data, text).turns
    if len(asked) != 1:
        raise UserError.at(WHERE, "the recipe makes several messages of a question.", HINT)
    return asked[0]


def _content(turn: Turn) -> str:
    """Return what a user types for a question that a recipe's template wrote; other messages unchanged."""
    return next((text for text in QUESTIONS if turn.role == "user" and text in turn.content), turn.content)


def _conversation(data: DataSection, questions: int) -> list[Turn]:
    """Return a conversation that ends with a question."""
    turns: list[Turn] = []
    for text, answer in zip(QUESTIONS[:questions], (*ANSWERS, ""), strict=False):
        turns += [_question(data, text), Turn("assistant", answer)]
    return turns[:-1]


def _row(turns: Sequence[Turn], data: DataSection) -> DataRow:
    """Return a row whose answer is still to come."""
    return DataRow((*turns, Turn("assistant", "?")), raw=data.format == "text")


def _written(encoder: Encoder, row: DataRow) -> str:
    """Return what the model reads before it answers."""
    end = encoder.tokenizer.eos_token
    return "".join(segment.text + end * segment.adds_end for segment in encoder.chat.segments(row)[:-1])


def _split(text: str, probes: Sequence[str]) -> list[str]:
    """Return the parts of a text between probes, each of which it has once and in this order.

    Raises:
        UserError: it has not.
    """
    parts = re.split("|".join(probes), text)
    if re.findall("|".join(probes), text) != list(probes):
        raise UserError.at(WHERE, "its chat template leaves out, repeats or changes messages.", HINT)
    return parts


def _literal(text: str) -> str:
    """Return a text as Go's templates write it: a brace may begin an action."""
    return text.replace("{", '{{ "{" }}')


def _quoted(text: str) -> str:
    """Return a text in the quotes of a Modelfile.

    Raises:
        UserError: Ollama would read another text.
    """
    unprintable = next((sign for sign in text if not (sign.isprintable() or sign in "\n\r\t")), None)
    if '"""' in text or unprintable is not None:
        sign = "three quotation marks" if unprintable is None else f"the character U+{ord(unprintable):04X}"
        raise UserError.at(WHERE, f"a prompt has {sign}, which a Modelfile cannot hold.", HINT)
    return f'"""{text}"""'
