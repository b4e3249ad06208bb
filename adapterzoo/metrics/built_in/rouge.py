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
    """Lower-case words of any script; the package's own tokenizer knows a-z and 0-9 and drops the rest."""

    def tokenize(self, text: str) -> list[str]:
        """Runs of letters and digits, with their accents and vowel signs; a character where words have no spaces."""
        tokens: list[str] = []
        inside = False
        for character in unicodedata.normalize("NFC", text.lower()):
            # Not the pattern \w: it ends an Indic or Arabic word at every vowel sign, and takes _ for a letter.
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
    found = _scorer().score(target=reference, prediction=answer)
    return {column: found[column].fmeasure for column in COLUMNS}


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return what this module brings."""
    # All three are called ROUGE below the table; of a narrow one, the longest common subsequence stays longest.
    titles = (("R-1", "R: ROUGE", 13), ("R-2", "", 14), ("R-L", "", 12))
    styles = {
        column: ColumnStyle(title, ".3f", explanation, (0.0, 1.0), drop)
        for column, (title, explanation, drop) in zip(COLUMNS, titles, strict=True)
    }
    return [Metric("rouge", rouge, columns=COLUMNS, styles=styles)]
