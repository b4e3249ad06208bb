"""Examples as the model sees them, for a person: the text of the tokens, what is learned marked, and lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.text import Text

from adapterzoo.terminal import safe
from adapterzoo.tokens.encode import Encoded, Example

BEGIN, END = "⟦", "⟧"
"""around what is in the loss"""
LINE = "↵"
# Other control characters as their pictures: a carriage return that is learned should be seen.
PICTURES = {code: 0x2400 + code for code in range(32) if code not in (10, 27)} | {0x85: "␤", 0x2028: "␤", 0x2029: "␤"}
LEARNED, SPECIAL = "bold green", "cyan"


def marked_text(example: Example, tokenizer: Any) -> Text:
    """An example's whole text. A line end is shown by ``↵`` as well, since it is a token like any other."""
    text = Text()
    for learned, group in groupby(_pieces(example, tokenizer), lambda piece: piece[2]):
        style = LEARNED if learned else ""
        text.append(BEGIN if learned else "", style)
        for token, piece, _ in group:
            special = SPECIAL if token in tokenizer.all_special_ids else ""
            lines = piece.translate(PICTURES).split("\n")
            for number, line in enumerate(lines):
                text.append_text(safe(line, f"{style} {special}".strip()))
                if number < len(lines) - 1:
                    text.append(f"{LINE}\n", f"{style} dim".strip())
        text.append(END if learned else "", style)
    return text


def token_lines(example: Example, tokenizer: Any) -> Iterator[Text]:
    """A line a token: its id, whether it is in the loss, and its text."""
    for token, piece, learned in _pieces(example, tokenizer):
        yield safe(f"{token:>7} {'loss' if learned else '    '} {piece!r}", LEARNED if learned else "")


def _pieces(example: Example, tokenizer: Any) -> Iterator[tuple[int, str, bool]]:
    """Each token's id, its text behind what comes before it, and whether it is learned."""
    ids, learned = example.tokens
    before, begins = "", 0
    for end in range(1, len(ids) + 1):
        # A few tokens back is enough for the spaces and the halves of characters that a token's text hangs on.
        text = tokenizer.decode(ids[begins:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        half = text.endswith("�") and end < len(ids)
        yield ids[end - 1], "" if half else text[len(before) :], learned[end - 1]
        if not half:
            begins = max(begins, end - 8)
            before = tokenizer.decode(ids[begins:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)


def length_summary(encoded: Encoded) -> str:
    """How long the rows are, in tokens."""
    sizes = sorted(len(e.learned) for part in (encoded.train, encoded.validation, encoded.test) for e in part)
    shown = ", ".join(f"{share} % up to {percentile(sizes, share)}" for share in (50, 90, 99))
    return f"tokens a row: {shown}, longest {sizes[-1]}"


def split_summary(name: str, examples: Sequence[Example]) -> str:
    """How many rows and tokens a part has, and how many of these are learned."""
    tokens = sum(len(example.learned) for example in examples)
    learned = sum(sum(example.learned) for example in examples)
    return f"{name}: {len(examples):,} rows, {tokens:,} tokens, {learned:,} of them in the loss"


def percentile(ordered: Sequence[int], share: int) -> int:
    """The smallest value that this share (in per cent) of all is no larger than."""
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]
