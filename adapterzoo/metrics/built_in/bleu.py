"""BLEU (Papineni et al., 2002, https://aclanthology.org/P02-1040), by ``sacrebleu``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.built_in._scripts import HAN, HANGUL, KANA, SOUTH_EAST_ASIAN
from adapterzoo.metrics.contract import ColumnStyle, Metric

if TYPE_CHECKING:
    from sacrebleu import BLEU


MAX_ORDER = 4
"""largest number of words in a sequence, as in the paper"""


def tokenizer(references: Sequence[str]) -> str:
    """Return sacrebleu's name of the tokenizer for these references; it does not depend on the answers.

    It is ``13a``, sacrebleu's default, unless most references are Chinese, or Japanese, Korean, Thai, Lao, Burmese or
    Khmer. Then it is ``zh`` if Chinese is more frequent than these other languages together, and else ``char``: all
    better tokenizers that sacrebleu has for them need a dictionary.
    """
    han = characters = 0
    for text in references:
        if any(script.search(text) for script in (KANA, HANGUL, SOUTH_EAST_ASIAN)):
            characters += 1
        elif HAN.search(text):
            han += 1
    if 2 * (han + characters) <= len(references):
        return "13a"
    return "char" if characters >= han else "zh"


@cache
def _bleu(tokenize: str, longest: int = MAX_ORDER) -> BLEU:
    """Return sacrebleu's BLEU.

    Args:
        tokenize: name of the tokenizer.
        longest: largest number of words in a sequence.
    """
    from sacrebleu import BLEU

    # Without effective_order, a test split scores 0 if no answer has four words, even if all are right. If an
    # answer has four words, effective_order changes nothing. force silences a warning about answers that end in " .".
    return BLEU(tokenize=tokenize, max_ngram_order=longest, effective_order=True, force=True)


def bleu(reference: str, answer: str) -> float:
    """BLEU-4 of the whole split (0 to 100); case matters; the references decide between 13a, zh and char tokens."""
    return float(_bleu(tokenizer([reference])).sentence_score(answer, [reference]).score)


def corpus_bleu(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return the BLEU of the whole test split, which is not the mean over its sentences.

    Sequences have at most as many words as the longest reference. Otherwise a single longer answer would lower the
    score of all others, because none of its sequences of four words can be right.
    """
    tokenize = tokenizer(references)
    longest = max(len(_bleu(tokenize).tokenizer(reference).split()) for reference in references)
    order = min(max(longest, 1), MAX_ORDER)
    return float(_bleu(tokenize, order).corpus_score(answers, [references]).score)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    return [Metric("bleu", bleu, total=corpus_bleu, styles={"bleu": ColumnStyle("BLEU", ".1f", bounds=(0.0, 100.0))})]
