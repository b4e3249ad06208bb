"""Metrics of classification: the whole answer is compared as a label, as several labels, or as a number."""

from __future__ import annotations

import math
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


def matthews(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return the correlation of labels and answers (Matthews' coefficient); 0 if all references or answers are one."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef([label(text) for text in references], [label(text) for text in answers]))


def labels_f1(reference: str, answer: str) -> float:
    """Return the F1 of several labels, which are separated by semicolons; 1 if both texts have none."""
    wanted, given = _labels(reference), _labels(answer)
    return 2 * len(wanted & given) / (len(wanted) + len(given)) if wanted or given else 1.0


def macro_labels_f1(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return the unweighted mean of the F1 of each label that occurs among the references, which may have several."""
    pairs = [(_labels(reference), _labels(answer)) for reference, answer in zip(references, answers, strict=True)]
    names = set().union(*(wanted for wanted, _ in pairs))
    f1 = []
    for name in names:
        hits = sum(name in wanted and name in given for wanted, given in pairs)
        f1.append(2 * hits / sum((name in wanted) + (name in given) for wanted, given in pairs))
    return fmean(f1) if f1 else 0.0


def _labels(text: str) -> set[str]:
    return {name for part in text.split(";") if (name := label(part))}


def is_number(reference: str, answer: str) -> bool:
    """Tell whether an answer is a number."""
    return _number(answer) is not None


def spearman(references: Sequence[str], answers: Sequence[str]) -> float:
    """Return Spearman's rank correlation of references and answers, which are numbers.

    A text that is no number counts as the mean of the others. The correlation is 0 if all numbers are the same.
    """
    from scipy.stats import spearmanr

    wanted, given = _numbers(references), _numbers(answers)
    if len(set(wanted)) < 2 or len(set(given)) < 2:
        return 0.0
    return float(spearmanr(wanted, given).statistic)


def _numbers(texts: Sequence[str]) -> list[float]:
    found = [_number(text) for text in texts]
    known = [number for number in found if number is not None]
    mean = fmean(known) if known else 0.0
    return [mean if number is None else number for number in found]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@hookimpl
def adapterzoo_metrics() -> list[Metric]:
    """Return the metrics of this module."""
    summary = "Mean F1 of the labels, each counted the same (0 to 1); normalised like accuracy"
    accuracy_style = ColumnStyle("acc.", ".3f", "acc.: share of test examples with the right label", (0.0, 1.0))
    f1_style = ColumnStyle("F1", ".3f", "F1: mean over the labels", (0.0, 1.0))
    return [
        Metric("accuracy", accuracy, label=label, styles={"accuracy": accuracy_style}),
        Metric("macro_f1", accuracy, summary, total=macro_f1, label=label, styles={"macro_f1": f1_style}),
        Metric(
            "matthews", accuracy, "Matthews' correlation of labels and answers (-1 to 1); normalised like accuracy",
            total=matthews, label=label,
            styles={"matthews": ColumnStyle("MCC", ".3f", "MCC: Matthews' correlation coefficient", (-1.0, 1.0))},
        ),
        Metric(
            "label_f1", labels_f1, "Mean F1 of the labels if a row may have several, with ; between them (0 to 1)",
            total=macro_labels_f1,
            styles={"label_f1": ColumnStyle("label F1", ".3f", "label F1: mean over the labels", (0.0, 1.0))},
        ),
        Metric(
            "spearman", is_number, "Spearman's rank correlation of numbers (-1 to 1)", total=spearman,
            styles={"spearman": ColumnStyle("rank corr.", ".3f", "rank corr.: Spearman's", (-1.0, 1.0))},
        ),
    ]  # fmt: skip
