"""ROUGE (Lin, 2004, https://aclanthology.org/W04-1013), by Google's ``rouge-score``."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.built_in._scripts import UNSPACED
from adapterzoo.metrics.contract import ColumnStyle, Metric

COLUMNS = ("rouge1", "rouge2", "rougeL")


class Words:
    """A tokenizer for words of any script; the package's own tokenizer drops everything but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-case words of a text; in scripts without spaces between words, each character is a word.

        A word is a run of letters and digits, with their accents and vowel signs.
        """
        tokens: list[str] = []
        inside = False
        for character in unicodedata.normalize("NFC", text.lower()):
            # The pattern \w cannot be used: it ends an Indic or Arabic word at every vowel sign, and accepts _.
            kind = unicodedata.category(character)[0]
            if kind == "M" and inside:
                tokens[-1] += character
            elif kind in "LN":
                alone = UNSPACED.match(character) is not None
                if inside and not alone and not UNSPACED.match(tokens[-1]):
                    tokens[-1] += character
                else:
                    tokens.append(character)
            inside = kind in "LN" or (kind == "M" and inside)
        return tokens


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(COLUMNS), use_stemmer=False, tokenizer=Words())


def rouge(reference: str, answer: str) -> dict[str, float]:
    """F1 of words, word pairs and the longest common subsequence (0 to 1); lower-cased, any script, no stemmer."""
    scores = _scorer().score(target=reference, prediction=answer)
    return {column: scores[column].fmeasure for column in COLUMNS}


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    # One explanation is enough for all three columns. A narrow terminal leaves R-L out last.
    titles = (("R-1", "R: ROUGE", 13), ("R-2", "", 14), ("R-L", "", 12))
    styles = {
        column: ColumnStyle(title, ".3f", explanation, (0.0, 1.0), drop)
        for column, (title, explanation, drop) in zip(COLUMNS, titles, strict=True)
    }
    return [Metric("rouge", rouge, columns=COLUMNS, styles=styles)]
