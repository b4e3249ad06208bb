"""Measure a model in the same way for every row of the table: likelihoods of the test rows, and scores of answers."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.errors import NotFiniteError
from adapterzoo.evaluation.generation import decoded, greedy
from adapterzoo.metrics.contract import overall, per_example
from adapterzoo.metrics.measured import MEASURED_NAMES
from adapterzoo.metrics.registry import metrics as known_metrics
from adapterzoo.tokens.batches import Tokens, batches_by_length, pad_batch, row_tokens, to_device
from adapterzoo.tokens.encode import Encoded, Example
from adapterzoo.tokens.shared_prefix import SharedPrefix, learned_parts, model_arguments

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import EvaluateSection

LOSS_POSITIONS = 64  # number of positions whose losses are computed together
MAX_CPU_POSITIONS = 512  # positions of a batch on a CPU, whose caches then hold the output of a layer
MAX_DISAGREEING = 0.1  # largest accepted share of generated answers that begin differently than predicted


class Likelihood(NamedTuple):
    """The likelihood of a row's learned tokens."""

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
    if with_likelihoods:
        measured = likelihoods(model, rows, encoded.pad_id, settings.batch_size, prefix)
    # Compute these metrics before answering, because they raise an error if the model's weights are not finite.
    likelihood_metrics = _likelihood_metrics([row for row in measured if row is not None], settings)
    answers: Sequence[str | None] = [None] * len(examples)
    seconds = None
    if set(settings.metrics) - MEASURED_NAMES:
        answers, seconds = _answers(model, encoded, settings, examples, prompts, measured, prefix)
    answer_metrics, scores = _answer_metrics(examples, answers, settings)
    predictions = [
        Prediction(index, example.row.prompt, example.row.completion, answers[index], measured[index], scores[index])
        for index, example in enumerate(examples)
    ]
    return Evaluation({**answer_metrics, **likelihood_metrics}, predictions, seconds)


def _answers(
    model: nn.Module,
    encoded: Encoded,
    settings: EvaluateSection,
    examples: Sequence[Example],
    prompts: Sequence[list[int]],
    measured: Sequence[Likelihood | None],
    prefix: SharedPrefix | None,
) -> tuple[list[str], float]:
    """Return the greedy answer to each prompt, and the mean seconds that one answer takes.

    Measuring the likelihood of a reference has also found the likeliest token at the position of each of its tokens. As
    long as both tokens are the same, the greedy answer is the reference, so only the rest is generated. The
    answers of the first batch are generated from the first token on, to time them and to check this shortcut.
    """
    longest = max(len(example.completion) for example in examples)
    limit = longest if settings.max_new_tokens == "auto" else settings.max_new_tokens
    timed = range(min(settings.batch_size, len(examples)))  # the examples of the first batch
    begun = time.perf_counter()
    answers = greedy(model, encoded, [prompts[i] for i in timed], settings.batch_size, [limit] * len(timed), prefix)
    seconds = (time.perf_counter() - begun) / len(timed)
    starts: list[list[int]] = [[] for _ in examples]
    if prefix is not None:
        starts = [greedy_start(*pair)[:limit] for pair in zip(examples, measured, strict=True)]
        # Rounding may decide between two tokens that are almost equally likely. If too many answers disagree, the
        # shortcut is wrong for this model, and every answer is generated from its first token on.
        disagreeing = sum(answers[i][: len(starts[i])] != starts[i] for i in timed)
        if disagreeing > MAX_DISAGREEING * len(timed):
            starts = [[] for _ in examples]
    rest = range(len(timed), len(examples))
    unfinished = [i for i in rest if len(starts[i]) < limit and not set(starts[i]) & set(encoded.end_ids)]
    extended = [prompts[i] + starts[i] for i in unfinished]
    limits = [limit - len(starts[i]) for i in unfinished]
    ends = dict(zip(unfinished, greedy(model, encoded, extended, settings.batch_size, limits, prefix), strict=True))
    answers += [[*starts[i], *ends.get(i, [])] for i in rest]
    return [decoded(ids, encoded) for ids in answers], seconds


def greedy_start(example: Example, likelihood: Likelihood | None) -> list[int]:
    """Return the start of the greedy answer: the reference up to the first difference, then the model's token.

    Args:
        example: the example with its reference.
        likelihood: likelihood of the reference after the same prompt; None if it was not measured.
    """
    reference = example.completion
    # The reference's tokens are the last of a row, so they are also the last of the learned tokens.
    if likelihood is None or likelihood.tokens < len(reference):
        return []
    likeliest = likelihood.likeliest[-len(reference) :]
    pairs = enumerate(zip(reference, likeliest, strict=True))
    same = next((index for index, pair in pairs if pair[0] != pair[1]), len(reference))
    return [*reference[:same], *likeliest[same : same + 1]]


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


def likelihoods(
    model: nn.Module,
    rows: Sequence[Tokens],
    pad_id: int,
    batch_size: int,
    prefix: SharedPrefix | None = None,
    *,
    losses_only: bool = False,
) -> list[Likelihood]:
    """Return the likelihood of the learned tokens of each row.

    Args:
        model: the model; it is left in evaluation mode.
        rows: the rows, each with at least one learned token.
        pad_id: id of the token that pads rows.
        batch_size: largest number of rows in a batch.
        prefix: joins rows that begin with the same tokens into one sequence; None if rows are padded.
        losses_only: whether to leave out the likeliest tokens; finding them takes longer than the losses.
    """
    import torch
    from torch.nn import functional

    measured: list[Likelihood] = [Likelihood(0.0, 0, (), 0)] * len(rows)
    spans = [len(learned) - learned.index(True) + 1 for _, learned in rows]
    counts = [sum(learned) for _, learned in rows]
    model.eval()
    # Do not use inference_mode: a tensor that a layer caches in it cannot be used in training later.
    with torch.no_grad():
        max_positions = MAX_CPU_POSITIONS if next(model.parameters()).device.type == "cpu" else math.inf
        for indices in batches_by_length([len(ids) for ids, _ in rows], batch_size, spans, max_positions):
            group = [rows[i] for i in indices]
            batch = to_device(pad_batch(group, pad_id) if prefix is None else prefix.batch(group, pad_id), model)
            # Leave the labels out, because the model's own loss may include a method's regulariser.
            inputs = {name: value for name, value in batch.items() if name not in ("labels", "shift_labels")}
            logits = model(**model_arguments(inputs, model)).logits
            losses, likeliest = [], []
            # A vocabulary is large, so compute the losses in parts that fit into the processor's cache.
            for part, targets in learned_parts(logits, batch, LOSS_POSITIONS):
                losses.append(functional.cross_entropy(part.float(), targets, reduction="none"))
                if not losses_only:
                    likeliest += part.argmax(dim=1).tolist()
            sizes = [counts[i] for i in indices]
            starts = accumulate(sizes[:-1], initial=0)
            for i, start, loss in zip(indices, starts, torch.cat(losses).double().split(sizes), strict=True):
                best = tuple(likeliest[start : start + counts[i]])
                right = sum(map(operator.eq, best, compress(*rows[i])))
                measured[i] = Likelihood(loss.sum().item(), counts[i], best, right)
    return measured
