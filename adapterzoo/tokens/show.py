"""Show examples as the model sees them: the text of their tokens, with the learned ones marked, and their lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.text import Text

from adapterzoo.tasks.examples import Examples, sizes
from adapterzoo.terminal import safe
from adapterzoo.tokens.encoded import Example
from adapterzoo.tokens.stored_examples import Stored

BEGIN, END = "⟦", "⟧"
"""marks around the tokens that are in the loss"""
LINE_END = "↵"
# Show control characters as symbols, so that a learned carriage return can be seen; 10 is the line end, 27 escape.
SYMBOLS = {code: 0x2400 + code for code in range(32) if code not in (10, 27)} | {0x85: "␤", 0x2028: "␤", 0x2029: "␤"}
LEARNED, SPECIAL = "bold green", "cyan"


def marked_text(example: Example, tokenizer: Any) -> Text:
    """Return the whole text of an example, with ``↵`` at each line end, which is a token like any other."""
    text = Text()
    for learned, group in groupby(_pieces(example, tokenizer), lambda piece: piece[2]):
        style = LEARNED if learned else ""
        text.append(BEGIN if learned else "", style)
        for token, piece, _ in group:
            special = SPECIAL if token in tokenizer.all_special_ids else ""
            lines = piece.translate(SYMBOLS).split("\n")
            for number, line in enumerate(lines):
                text.append_text(safe(line, f"{style} {special}".strip()))
                if number < len(lines) - 1:
                    text.append(f"{LINE_END}\n", f"{style} dim".strip())
        text.append(END if learned else "", style)
    return text


def token_lines(example: Example, tokenizer: Any) -> Iterator[Text]:
    """Yield a line for each token: its id, whether it is in the loss, and its text."""
    for token, piece, learned in _pieces(example, tokenizer):
        yield safe(f"{token:>7} {'loss' if learned else '    '} {piece!r}", LEARNED if learned else "")


def _pieces(example: Example, tokenizer: Any) -> Iterator[tuple[int, str, bool]]:
    """Yield each token's id, the text that it adds to the text before it, and whether it is learned."""
    ids, learned = example.tokens
    before, start = "", 0
    for end in range(1, len(ids) + 1):
        # Decode a few earlier tokens too, because spaces and parts of characters depend on them.
        text = tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        incomplete = text.endswith("�") and end < len(ids)
        yield ids[end - 1], "" if incomplete else text[len(before) :], learned[end - 1]
        if not incomplete:
            start = max(start, end - 8)
            before = tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)


def length_summary(encoded: Examples) -> str:
    """Return a line about the lengths of all rows, in tokens."""
    splits = (encoded.train, encoded.validation, encoded.test)
    ordered = sorted(size for examples in splits for size in sizes(examples))
    shown = ", ".join(f"{share} % up to {percentile(ordered, share)}" for share in (50, 90, 99))
    return f"tokens per row: {shown}, longest {ordered[-1]}"


def split_summary(name: str, examples: Sequence[Example]) -> str:
    """Return a line about a split: its number of rows, of tokens, and of tokens that are learned."""
    tokens = int(sum(sizes(examples)))
    if isinstance(examples, Stored):
        learned = examples.learned()
    else:
        learned = sum(sum(example.tokens[1]) for example in examples)
    in_loss = f", {learned:,} of them in the loss" if learned else ""
    return f"{name}: {len(examples):,} rows, {tokens:,} tokens{in_loss}"


def percentile(ordered: Sequence[int], share: int) -> int:
    """Return a percentile: the smallest value such that ``share`` per cent of the ordered values are not above it."""
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]
