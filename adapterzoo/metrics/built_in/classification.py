"""Classification by generation: the answer is taken for a label."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from statistics import fmean

from adapterzoo.hookspecs import hookimpl
from adapterzoo.metrics.contract import ColumnStyle, Metric

# What a model puts around a word. Not every sign: C# is not C, -1 is not 1, and <50K is not >50K.
AROUND = " .,:;!?¡¿…()[]{}\"'«»‹›“”„‟‘’‚‛。，、！？：；（）「」『』【】《》،؛؟।"
# Markdown's, on both sides only: A* is not A, and *** is not *.
EMPHASIS = re.compile(r"([*_`]+)([^*_`].*)\1")


def label(text: str) -> str:
    """The label that a text names: NFC, any case, no white space or punctuation around it."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    name = " ".join(folded.split())
    while True:
        emphasised = EMPHASIS.fullmatch(name)
        inner = (emphasised.group(2) if emphasised else name).strip(AROUND)
        # A label that is nothing but such signs, ":)" say, stays.
        if inner in (name, ""):
            return name
        name = inner


def accuracy(reference: str, answer: str) -> bool:
    """Share of answers that name the reference's label (0 to 1); case and punctuation around it do not count."""
    return label(answer) == label(reference)


def macro_f1(references: Sequence[str], answers: Sequence[str]) -> float:
    """The unweighted mean of the F1 of each label that occurs among the references.

    An answer that is none of them is a miss for its reference's label, and no false alarm for another:
    scikit-learn's ``f1_score(labels=<those of the references>, average="macro", zero_division=0)``.
    """
    pairs = [(label(reference), label(answer)) for reference, answer in zip(references, answers, strict=True)]
    return fmean(_f1(pairs, one) for one in {reference for reference, _ in pairs})


def _f1(pairs: Sequence[tuple[str, str]], one: str) -> float:
    hits = sum(pair == (one, one) for pair in pairs)
    # Twice the hits, the misses and the false alarms; above 0, since a reference has the label.
    return 2 * hits / sum((reference == one) + (answer == one) for reference, answer in pairs)


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return what this module brings."""
    f1 = "Mean F1 of the labels, each counted the same (0 to 1); normalised like accuracy"
    right = {"accuracy": ColumnStyle("acc.", ".3f", "acc.: share of test labels right", (0.0, 1.0))}
    mean = {"macro_f1": ColumnStyle("F1", ".3f", "F1: mean over the labels", (0.0, 1.0))}
    return [
        Metric("accuracy", accuracy, label=label, styles=right),
        Metric("macro_f1", accuracy, summary=f1, total=macro_f1, label=label, styles=mean),
    ]
