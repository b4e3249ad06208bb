"""Turn the token ids of an answer into its text."""

from __future__ import annotations

from collections.abc import Sequence

from adapterzoo.evaluation.continuing import AnswerTokens


def decoded(ids: Sequence[int], encoded: AnswerTokens) -> str:
    """Return the text of an answer, up to the end token, without what the chat template has before answers."""
    end = next((index for index, token in enumerate(ids) if token in encoded.end_ids), len(ids))
    return _text(encoded, ids[header_size(ids[:end], encoded) or 0 : end], special=False)


def header_size(ids: Sequence[int], encoded: AnswerTokens) -> int | None:
    """Return the number of tokens with which an answer begins as the chat template begins answers.

    Returns:
        0 if it begins otherwise; None if further tokens decide.
    """
    header = encoded.answer_header.strip()
    if not header:
        return 0
    for size in range(1, len(ids) + 1):
        text = _text(encoded, ids[:size], special=True)
        if text == header:
            return size
        if not header.startswith(text):
            return 0
    return None


def _text(encoded: AnswerTokens, ids: Sequence[int], *, special: bool) -> str:
    """Return token ids as text, with special tokens if ``special`` is set, and without spaces around it."""
    # A tokenizer may be set to leave out spaces before signs, and then no answer could be as the data has it.
    text = encoded.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    return str(text).strip()
