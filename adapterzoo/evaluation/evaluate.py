"""Measure a model in the same way for every row of the table: likelihoods of the test rows, and scores of answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.errors import NotFiniteError
from adapterzoo.evaluation.answers import answer
from adapterzoo.evaluation.generation import decoded
from adapterzoo.evaluation.likelihood import Likelihood, likelihoods
from adapterzoo.metrics.contract import overall, per_example
from adapterzoo.metrics.measured import MEASURED_NAMES
from adapterzoo.metrics.registry import metrics as known_metrics
from adapterzoo.tokens.batches import row_tokens
from adapterzoo.tokens.encode import Encoded, Example
from adapterzoo.tokens.shared_prefix import SharedPrefix

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import EvaluateSection


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


def evaluate(
    model: nn.Module,
    encoded: Encoded,
    settings: EvaluateSection,
    prompts: Sequence[list[int]] | None = None,
    *,
    split: str = "test",
    with_likelihoods: bool = True,
    prefix: SharedPrefix | None = None,
) -> Evaluation:
    """Measure a model on a split.

    Args:
        model: the model; it is left in evaluation mode.
        encoded: the encoded rows.
        settings: the metrics and the batch size.
        prompts: prompts that replace the examples' own, in the same order; for example, prompts with examples in front.
        split: name of the split to measure on; tuning measures on ``validation``.
        with_likelihoods: whether to measure likelihoods; with other prompts they may not be comparable.
        prefix: joins rows that begin with the same tokens into one sequence; None if rows are padded.

    Raises:
        NotFiniteError: the loss is NaN or infinite, for example because the last training step broke the weights.
        PluginError: a third-party metric does not do what the contract says.
    """
    examples: list[Example] = getattr(encoded, split)
    if prompts is None:
        rows, prompts = [example.tokens for example in examples], [example.prompt for example in examples]
    else:
        rows = [row_tokens(prompt, example.completion) for prompt, example in zip(prompts, examples, strict=True)]
    measured: Sequence[Likelihood | None] = [None] * len(rows)
    answers: Sequence[str | None] = [None] * len(rows)
    seconds, size = None, settings.batch_size
    if set(settings.metrics) - MEASURED_NAMES:
        longest = max(len(example.completion) for example in examples)
        limit = longest if settings.max_new_tokens == "auto" else settings.max_new_tokens
        ids, seconds, measured = answer(
            model, encoded, prompts, rows, limit, size, prefix, with_likelihoods=with_likelihoods
        )
        answers = [decoded(tokens, encoded) for tokens in ids]
    elif with_likelihoods:
        measured = likelihoods(model, rows, encoded.pad_id, size, prefix)
    # Compute these metrics before the others, because they raise an error if the model's weights are not finite.
    likelihood_metrics = _likelihood_metrics([row for row in measured if row is not None], settings)
    answer_metrics, scores = _answer_metrics(examples, answers, settings)
    predictions = [
        Prediction(index, example.row.prompt, example.row.completion, answers[index], measured[index], scores[index])
        for index, example in enumerate(examples)
    ]
    return Evaluation({**answer_metrics, **likelihood_metrics}, predictions, seconds)


def _likelihood_metrics(measured: Sequence[Likelihood], settings: EvaluateSection) -> dict[str, float]:
    if not measured:
        return {}
    tokens = sum(row.tokens for row in measured)
    loss = sum(row.loss for row in measured) / tokens
    if not math.isfinite(loss):
        raise NotFiniteError(f"the test loss is {loss}")
    values = {
        "loss": ("test_loss", loss),
        "perplexity": ("perplexity", math.exp(min(loss, 700.0))),
        "token_accuracy": ("token_accuracy", sum(row.right for row in measured) / tokens),
    }
    return dict(values[name] for name in settings.metrics if name in values)


def _answer_metrics(
    examples: Sequence[Example], answers: Sequence[str | None], settings: EvaluateSection
) -> tuple[dict[str, float], list[dict[str, float | bool]]]:
    """Return the metrics of all answers together, and the scores of each answer."""
    references = [example.row.completion.strip() for example in examples]
    texts = [answer or "" for answer in answers]
    totals: dict[str, float] = {}
    rows: list[dict[str, float | bool]] = [{} for _ in examples]
    for name in settings.metrics:
        if name in MEASURED_NAMES:
            continue
        metric = known_metrics()[name]
        scores = [per_example(metric, *pair) for pair in zip(references, texts, strict=True)]
        totals.update(overall(metric, references, texts, scores))
        for row, score in zip(rows, scores, strict=True):
            row.update(score)
    return totals, rows
