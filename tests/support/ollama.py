"""Read Modelfiles as Ollama does: their values, and the small part of Go's templates that adapterzoo writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

ACTION = re.compile(r"{{ (.*?) }}")
Token = tuple[bool, str]
"""whether it is an action, and the text"""


def value(modelfile: str, command: str) -> str:
    """Return the value of a command in a Modelfile."""
    (found,) = re.findall(rf'^{command} """(.*?)"""$', modelfile, re.MULTILINE | re.DOTALL)
    return str(found)


def render(template: str, messages: Sequence[tuple[str, str]]) -> str:
    """Return what Ollama gives the model for messages, each a role and a content."""
    tokens = [(number % 2 == 1, text) for number, text in enumerate(ACTION.split(template))]
    system = "\n\n".join(content for role, content in messages if role == "system")
    text, rest = _block(tokens, {"System": system, "Messages": messages})
    assert not rest, f"unexpected: {rest[0]}"
    return text


def _block(tokens: list[Token], values: dict[str, Any]) -> tuple[str, list[Token]]:
    """Return the text up to an ``else`` or ``end`` that belongs to an action before the tokens, and what follows."""
    text = ""
    while tokens and not (tokens[0][0] and tokens[0][1].split()[0] in ("else", "end")):
        (is_action, content), tokens = tokens[0], tokens[1:]
        if not is_action:
            assert "{{" not in content, content
            text += content
        elif content.startswith("range ."):
            inside = [_block(tokens, values | {"Role": role, "Content": said})[0] for role, said in values[content[7:]]]
            _, tokens = _block(tokens, values | {"Role": "", "Content": ""})
            text += "".join(inside)
            assert tokens[0] == (True, "end")
            tokens = tokens[1:]
        elif content.startswith("if "):
            chosen, tokens = _if(content, tokens, values)
            text += chosen
        elif content.startswith('"'):
            text += content[1:-1]
        else:
            text += values[content.removeprefix(".")]
    return text, tokens


def _if(condition: str, tokens: list[Token], values: dict[str, Any]) -> tuple[str, list[Token]]:
    """Return the text of the first branch whose condition is true, and what follows the ``end``."""
    chosen = None
    while condition:
        inside, tokens = _block(tokens, values)
        if chosen is None and _is_true(condition, values):
            chosen = inside
        condition, tokens = tokens[0][1].removeprefix("else "), tokens[1:]
        if condition == "end":
            break
    return chosen or "", tokens


def _is_true(condition: str, values: dict[str, Any]) -> bool:
    if found := re.fullmatch(r'if eq \.Role "(\w+)"', condition):
        return bool(values["Role"] == found[1])
    assert condition == "if not .System", condition
    return not values["System"]
