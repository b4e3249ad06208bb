"""Accuracy and macro-F1 of classification: the whole answer is compared as a label."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from statistics import fmean

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric

# Punctuation that a model may put around a label. Other signs belong to it: C# is not C, and <50K is not >50K.
PUNCTUATION = " .,:;!?¡¿…()[]{}\"'«»‹›“”„‟‘’‚‛。，、！？：；（）「」『』【】《》،؛؟।"
# Markdown's emphasis, which has signs on both sides: A* is not A, and *** is not *.
EMPHASIS = re.compile(r"([*_`]+)([^*_`].*)\1")


def label(text: str) -> str:
    """Return the label that a text names: in NFC and lower case, without white space or punctuation around it."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    name = " ".join(folded.split())
    while True:
        emphasised = EMPHASIS.fullmatch(name)
        inner = (emphasised.group(2) if emphasised else name).strip(PUNCTUATION)
        # Keep a label that has nothing but punctuation, such as ":)".
        if inner in (name, ""):
            return name
        name = inner


def accuracy(reference: str, answer: str) -> bool:
    """Share of answers that name the reference's label (0 to 1); case and punctuation around it are ignored."""
    return label(answer) == label(reference)


def macro_f1(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return the unweighted mean of the F1 of each label that occurs among the references.

    An answer that is none of these labels is a miss of its reference's label, but no false alarm for another label, as
    in scikit-learn's ``f1_score(labels=<labels of the references>, average="macro", zero_division=0)``.
    """
    pairs = [(label(reference), label(answer)) for reference, answer in zip(references, answers, strict=True)]
    return fmean(_f1(pairs, name) for name in {reference for reference, _ in pairs})


def _f1(pairs: Sequence[tuple[str, str]], name: str) -> float:
    hits = sum(pair == (name, name) for pair in pairs)
    # The sum is twice the hits plus misses and false alarms. It is not 0, because a reference has the label.
    return 2 * hits / sum((reference == name) + (answer == name) for reference, answer in pairs)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    summary = "Mean F1 of the labels, each counted the same (0 to 1); normalised like accuracy"
    accuracy_style = ColumnStyle("acc.", ".3f", "acc.: share of test examples with the right label", (0.0, 1.0))
    f1_style = ColumnStyle("F1", ".3f", "F1: mean over the labels", (0.0, 1.0))
    return [
        Metric("accuracy", accuracy, label=label, styles={"accuracy": accuracy_style}),
        Metric("macro_f1", accuracy, summary, total=macro_f1, label=label, styles={"macro_f1": f1_style}),
    ]
