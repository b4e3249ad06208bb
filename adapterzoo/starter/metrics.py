"""Guess which metrics fit the answers: labels, short texts or long ones."""

from __future__ import annotations

from collections.abc import Sequence

from adapterzoo.data_row import BadRowError, EmptyRowError
from adapterzoo.formats import FORMATS, Conversation
from adapterzoo.metrics.built_in import SUITABLE
from adapterzoo.starter.columns import DataColumn, labels_in, listed
from adapterzoo.starter.finding import Finding

# Answers that are longer than this on average are compared by their words, not as a whole.
LONG_ANSWER_CHARACTERS = 60
# A label has only one or a few tokens, so its perplexity says no more than its loss.
LIKELIHOODS = {"labels": ("loss",), "long answers": ("loss", "perplexity"), "short answers": ("loss", "perplexity")}
METRICS = {kind: f"[{', '.join((*SUITABLE[kind], *names))}]" for kind, names in LIKELIHOODS.items()}


def suitable_metrics(format: Finding, roles: Sequence[Finding], columns: Sequence[DataColumn]) -> Finding:
    """Return the metrics that fit the answers; unknown if they depend on which column has the answers."""
    key = "evaluate.metrics"
    if format.value == "text":
        return Finding(key, "[loss, perplexity]", "certain", "plain text has no answers to compare")
    choices = tuple(f"{names} for {kind}" for kind, names in METRICS.items())
    answers = _answers(format, roles, columns)
    kinds = {_kind(texts): texts for texts in answers}
    if len(kinds) != 1:
        return Finding(key, None, "not known", "it depends on the answers", choices)
    ((kind, texts),) = kinds.items()
    if len(answers) > 1:
        return Finding(key, METRICS[kind], "likely", f"all columns that may be the answer hold {kind}")
    reasons = {
        "labels": f"the answers are labels: {listed(labels_in(texts))}",
        "long answers": f"the answers have more than {LONG_ANSWER_CHARACTERS} characters on average",
        "short answers": "the answers are short texts, not labels",
    }
    if len(set(texts)) < 2:
        return Finding(key, METRICS[kind], "a guess", "all answers that were looked at are the same")
    return Finding(key, METRICS[kind], "likely", reasons[kind])


def _kind(answers: Sequence[str]) -> str:
    """Return the kind of the answers: a key of ``METRICS``."""
    different = set(answers)
    long = sum(map(len, different)) > LONG_ANSWER_CHARACTERS * len(different)
    return "labels" if labels_in(answers) else "long answers" if long else "short answers"


def _answers(format: Finding, roles: Sequence[Finding], columns: Sequence[DataColumn]) -> list[list[str]]:
    """Return the answers of each column that may be the answer."""
    if format.value is None:
        keys = [FORMATS[name].answer for name in format.choices]
        return [column.texts for column in columns if column.name.lower().strip() in keys]
    is_conversation = isinstance(FORMATS[format.value], Conversation)
    (answer,) = (role for role in roles if is_conversation or role.name == FORMATS[format.value].answer)
    possible = [column for column in columns if column.name in (answer.value, *answer.choices)]
    return [_last_answers(format.value, column) if is_conversation else column.texts for column in possible]


def _last_answers(format: str, column: DataColumn) -> list[str]:
    """Return the last answer of each conversation that fits the format."""
    answers = []
    for cell in column.cells:
        try:
            turns = FORMATS[format].turns({FORMATS[format].columns[0]: cell if isinstance(cell, list) else None})
        except (BadRowError, EmptyRowError):
            continue
        answers.append(turns[-1].content)
    return answers
