"""Describe what measuring a model gives, for every task; and score answers by the recipe's metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from adapterzoo.data_row import DataRow
from adapterzoo.errors import NotFiniteError
from adapterzoo.metrics.contract import overall, per_example
from adapterzoo.metrics.registry import compares_answers
from adapterzoo.metrics.registry import metrics as known_metrics


class Likelihood(NamedTuple):
    """The likelihood of what a row teaches: the learned tokens of a text, or one label."""

    loss: float
    """sum of the losses of the learned tokens, in nats"""
    tokens: int
    """number of learned tokens"""
    likeliest: tuple[int, ...]
    """id of the token that the model finds likeliest at the position of each learned token; empty if not asked for"""
    right: int
    """number of learned tokens that are also the likeliest tokens"""


@dataclass(frozen=True)
class Prediction:
    """One test example with the model's answer."""

    index: int
    prompt: str
    reference: str
    prediction: str | None
    """answer of the model; None if no metric needs an answer"""
    likelihood: Likelihood | None
    """likelihood of the reference; None if it was not measured"""
    scores: dict[str, float | bool] = field(default_factory=dict)
    """column of a metric -> score of the answer"""

    def record(self) -> dict[str, Any]:
        """Return the prediction as a line of ``predictions.jsonl``."""
        texts = {"index": self.index, "prompt": self.prompt, "reference": self.reference, "prediction": self.prediction}
        likelihood = {
            "loss": self.likelihood and self.likelihood.loss,
            "tokens": self.likelihood and self.likelihood.tokens,
            "right_tokens": self.likelihood and self.likelihood.right,
        }
        return {**texts, **likelihood, **self.scores}


class Evaluation(NamedTuple):
    """The measurements of one model."""

    metrics: dict[str, float]
    """metric -> value; metrics of answers come first"""
    predictions: list[Prediction]
    """one prediction for each example"""
    answer_seconds: float | None
    """mean time of one answer; None if no metric needs answers"""
    remembered: float = 0.0
    """share of the first answers that are right only once the right answers are in memory"""

    def without(self, names: Sequence[str]) -> Evaluation:
        """Return the measurements without some metrics."""
        if not names:
            return self
        predictions = [
            replace(row, scores={name: score for name, score in row.scores.items() if name not in names})
            for row in self.predictions
        ]
        metrics = {name: value for name, value in self.metrics.items() if name not in names}
        return self._replace(metrics=metrics, predictions=predictions)


def evaluation_of(
    rows: Sequence[DataRow],
    measured: Sequence[Likelihood | None],
    answers: Sequence[str | None],
    metrics: Sequence[str],
    split: str,
    seconds: float | None,
    scores: Mapping[str, Sequence[float | bool]] | None = None,
) -> Evaluation:
    """Return the evaluation for the likelihoods and answers of a split's rows.

    Args:
        rows: the rows, each with the right answer.
        measured: likelihood of each right answer; None if it was not measured.
        answers: the model's answer to each row; None if no metric needs it.
        metrics: names of the metrics.
        split: name of the split, for messages.
        seconds: mean time of one answer; None if no metric needs answers.
        scores: metrics that the task has measured itself; see :func:`evaluation_of_scores`.

    Raises:
        NotFiniteError: the loss is NaN or infinite, for example because the last training step broke the weights.
        PluginError: a third-party metric does not do what the contract says.
    """
    # Compute these metrics before the others, because they raise an error if the model's weights are not finite.
    of_likelihoods = likelihood_metrics([row for row in measured if row is not None], metrics, split)
    references = [row.completion.strip() for row in rows]
    of_answers, answer_scores = answer_metrics(references, [answer or "" for answer in answers], metrics)
    means, own_scores = _wanted(scores or {}, metrics, len(rows))
    predictions = [
        Prediction(index, row.prompt, row.completion, answer, likelihood, {**own, **of_answer})
        for index, (row, answer, likelihood, own, of_answer) in enumerate(
            zip(rows, answers, measured, own_scores, answer_scores, strict=True)
        )
    ]
    return Evaluation({**means, **of_answers, **of_likelihoods}, predictions, seconds)


def evaluation_of_scores(
    rows: Sequence[DataRow],
    measured: Sequence[Likelihood],
    scores: Mapping[str, Sequence[float | bool]],
    metrics: Sequence[str],
    split: str,
) -> Evaluation:
    """Return the evaluation for the scores that a task has measured itself; it has no answers.

    Args:
        rows: the rows of a split.
        measured: loss of each row.
        scores: metric -> score of each row; the metric's value is the mean.
        metrics: names of the metrics; scores of others are left out.
        split: name of the split, for messages.

    Raises:
        NotFiniteError: the loss is NaN or infinite.
    """
    without_answers = [name for name in metrics if not compares_answers(name)]
    return evaluation_of(rows, measured, [None] * len(rows), without_answers, split, None, scores)


def _wanted(
    scores: Mapping[str, Sequence[float | bool]], metrics: Sequence[str], count: int
) -> tuple[dict[str, float], list[dict[str, float | bool]]]:
    """Return the means of those scores that are metrics, and these scores for each row."""
    wanted = {name: scores[name] for name in metrics if name in scores}
    means = {name: sum(values) / count for name, values in wanted.items()}
    return means, [{name: values[index] for name, values in wanted.items()} for index in range(count)]


def needs_answers(metrics: Sequence[str]) -> bool:
    """Tell whether any of these metrics compares the model's answers with the references."""
    return any(compares_answers(name) for name in metrics)


def likelihood_metrics(measured: Sequence[Likelihood], metrics: Sequence[str], split: str = "test") -> dict[str, float]:
    """Return those of the metrics that the likelihoods of all references give.

    Raises:
        NotFiniteError: the loss is NaN or infinite, for example because the last training step broke the weights.
    """
    if not measured:
        return {}
    tokens = sum(row.tokens for row in measured)
    loss = sum(row.loss for row in measured) / tokens
    if not math.isfinite(loss):
        raise NotFiniteError(f"the {split} loss is {loss}")
    values = {
        "loss": ("test_loss", loss),
        "perplexity": ("perplexity", math.exp(min(loss, 700.0))),
        "token_accuracy": ("token_accuracy", sum(row.right for row in measured) / tokens),
    }
    return dict(values[name] for name in metrics if name in values)


def answer_metrics(
    references: Sequence[str], answers: Sequence[str], metrics: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, float | bool]]]:
    """Return those of the metrics that compare answers, for all answers together; and the scores of each answer.

    Raises:
        PluginError: a third-party metric does not do what the contract says.
    """
    totals: dict[str, float] = {}
    rows: list[dict[str, float | bool]] = [{} for _ in references]
    for name in metrics:
        if not compares_answers(name):
            continue
        metric = known_metrics()[name]
        scores = [per_example(metric, *pair) for pair in zip(references, answers, strict=True)]
        totals.update(overall(metric, references, answers, scores))
        for row, score in zip(rows, scores, strict=True):
            row.update(score)
    return totals, rows
