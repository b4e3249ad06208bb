"""The measurement, the same for every row of the table: how likely the test rows are, and answers compared."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.errors import NotFiniteError
from adapterzoo.evaluation.generation import decoded, greedy
from adapterzoo.metrics.contract import overall, per_example
from adapterzoo.metrics.measured import MEASURED_NAMES
from adapterzoo.metrics.registry import metrics as known_metrics
from adapterzoo.tokens.batches import Tokens, batches_by_length, pad_batch, row_tokens, to_device
from adapterzoo.tokens.encode import Encoded, Example
from adapterzoo.tokens.shared_prefix import SharedPrefix, learned_logits, model_arguments

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import EvaluateSection

POSITIONS_AT_ONCE = 64  # whose losses are computed together
# Of a batch on a CPU: in its caches, what a layer gives is computed with at the speed of arithmetic.
CPU_POSITIONS = 512
MAX_DENIED = 0.1  # of answers that generation does not begin as the likeliest tokens did, as a share


class Likelihood(NamedTuple):
    """How likely a row's learned tokens are."""

    loss: float
    """summed over them, in nats"""
    tokens: int
    likeliest: tuple[int, ...]
    """in the place of each of them, the token that the model finds likeliest"""
    right: int
    """how many of them these are"""


@dataclass(frozen=True)
class Prediction:
    """One test example, asked and answered."""

    index: int
    prompt: str
    reference: str
    prediction: str | None
    """None where no metric needs an answer"""
    likelihood: Likelihood | None
    scores: dict[str, float | bool] = field(default_factory=dict)
    """of the answer, by column"""

    def record(self) -> dict[str, Any]:
        """As a line of ``predictions.jsonl``."""
        asked = {"index": self.index, "prompt": self.prompt, "reference": self.reference, "prediction": self.prediction}
        found = self.likelihood
        likely = {
            "loss": found and found.loss,
            "tokens": found and found.tokens,
            "right_tokens": found and found.right,
        }
        return {**asked, **likely, **self.scores}


class Evaluation(NamedTuple):
    """What measuring a model gave."""

    metrics: dict[str, float]
    """by name, those of answers first"""
    predictions: list[Prediction]
    """one for each example"""
    answer_seconds: float | None
    """that an answer took, on average; None where none was asked for"""


def evaluate(
    model: nn.Module,
    encoded: Encoded,
    settings: EvaluateSection,
    prompts: Sequence[list[int]] | None = None,
    *,
    part: str = "test",
    likely: bool = True,
    prefix: SharedPrefix | None = None,
) -> Evaluation:
    """Measure a model on the test split.

    Args:
        model: in whatever state; left in evaluation mode.
        encoded: its examples of ``part`` are used.
        settings: which metrics, and the batch size.
        prompts: other prompts for the same examples, in the same order (examples shown first, say).
        part: ``validation`` for what is only chosen by.
        prefix: what makes batches of rows that begin alike; None where every row is to be padded.
        likely: whether likelihoods are to be measured: of other prompts, only answers can be compared.

    Raises:
        NotFiniteError: the loss is NaN or infinite: the weights blew up in the last step, say.
        PluginError: a metric that somebody else brought does not do what the contract says.
    """
    examples: list[Example] = getattr(encoded, part)
    if prompts is None:
        rows, prompts = [example.tokens for example in examples], [example.prompt for example in examples]
    else:
        rows = [row_tokens(prompt, example.completion) for prompt, example in zip(prompts, examples, strict=True)]
    found: Sequence[Likelihood | None] = [None] * len(rows)
    if likely:
        found = likelihoods(model, rows, encoded.pad_id, settings.batch_size, prefix)
    # First, so that weights that blew up are called that, whatever they would answer.
    measured = _likelihood_metrics([one for one in found if one is not None], settings)
    answers: Sequence[str | None] = [None] * len(examples)
    seconds = None
    if set(settings.metrics) - MEASURED_NAMES:
        answers, seconds = _answers(model, encoded, settings, examples, prompts, found, prefix)
    compared, scores = _answer_metrics(examples, answers, settings)
    predictions = [
        Prediction(index, example.row.prompt, example.row.completion, answers[index], found[index], scores[index])
        for index, example in enumerate(examples)
    ]
    return Evaluation({**compared, **measured}, predictions, seconds)


def _answers(
    model: nn.Module,
    encoded: Encoded,
    settings: EvaluateSection,
    examples: Sequence[Example],
    prompts: Sequence[list[int]],
    found: Sequence[Likelihood | None],
    prefix: SharedPrefix | None,
) -> tuple[list[str], float]:
    """Return the greedy answer to each prompt, and the seconds that one took.

    How likely the right answer is was computed with the token that is likeliest in the place of each of its tokens: as
    far as they agree, that is the greedy answer already, and only what comes after is generated. The answers of the
    first batch are generated from their first token on, to be timed.
    """
    longest = max(len(example.completion) for example in examples)
    limit = longest if settings.max_new_tokens == "auto" else settings.max_new_tokens
    timed = range(min(settings.batch_size, len(examples)))
    before = time.perf_counter()
    answers = greedy(model, encoded, [prompts[i] for i in timed], settings.batch_size, [limit] * len(timed), prefix)
    seconds = (time.perf_counter() - before) / len(timed)
    known: list[list[int]] = [[] for _ in examples]
    if prefix is not None:
        known = [agreed(*pair)[:limit] for pair in zip(examples, found, strict=True)]
        # Rounding may decide between two tokens that are as good as equal; anything else is no greedy answer.
        denied = sum(answers[i][: len(known[i])] != known[i] for i in timed)
        if denied > MAX_DENIED * len(timed):
            known = [[] for _ in examples]
    rest = range(len(timed), len(examples))
    open_ended = [i for i in rest if len(known[i]) < limit and not set(known[i]) & set(encoded.end_ids)]
    asked = [prompts[i] + known[i] for i in open_ended]
    limits = [limit - len(known[i]) for i in open_ended]
    new = dict(zip(open_ended, greedy(model, encoded, asked, settings.batch_size, limits, prefix), strict=True))
    answers += [[*known[i], *new.get(i, [])] for i in rest]
    return [decoded(ids, encoded) for ids in answers], seconds


def agreed(example: Example, likelihood: Likelihood | None) -> list[int]:
    """Return how the greedy answer begins: as the right one does while the model agrees, and the next token.

    Args:
        example: that was asked.
        likelihood: of its answer after the same prompt; None where that was not measured.
    """
    answer = example.completion
    # The answer's tokens are the last of a row, so they are also the last of the learned tokens.
    if likelihood is None or likelihood.tokens < len(answer):
        return []
    likeliest = likelihood.likeliest[-len(answer) :]
    same = next((at for at, pair in enumerate(zip(answer, likeliest, strict=True)) if pair[0] != pair[1]), len(answer))
    return [*answer[:same], *likeliest[same : same + 1]]


def _likelihood_metrics(found: Sequence[Likelihood], settings: EvaluateSection) -> dict[str, float]:
    if not found:
        return {}
    tokens = sum(one.tokens for one in found)
    loss = sum(one.loss for one in found) / tokens
    if not math.isfinite(loss):
        raise NotFiniteError(f"the test loss is {loss}")
    values = {
        "loss": ("test_loss", loss),
        "perplexity": ("perplexity", math.exp(min(loss, 700.0))),
        "token_accuracy": ("token_accuracy", sum(one.right for one in found) / tokens),
    }
    return dict(values[name] for name in settings.metrics if name in values)


def _answer_metrics(
    examples: Sequence[Example], answers: Sequence[str | None], settings: EvaluateSection
) -> tuple[dict[str, float], list[dict[str, float | bool]]]:
    """What all answers score, and what each does."""
    references = [example.row.completion.strip() for example in examples]
    given = [answer or "" for answer in answers]
    together: dict[str, float] = {}
    each: list[dict[str, float | bool]] = [{} for _ in examples]
    for name in settings.metrics:
        if name in MEASURED_NAMES:
            continue
        metric = known_metrics()[name]
        scores = [per_example(metric, *pair) for pair in zip(references, given, strict=True)]
        together.update(overall(metric, references, given, scores))
        for row, score in zip(each, scores, strict=True):
            row.update(score)
    return together, each


def likelihoods(
    model: nn.Module, rows: Sequence[Tokens], pad_id: int, batch_size: int, prefix: SharedPrefix | None = None
) -> list[Likelihood]:
    """Return how likely the learned tokens of each row are.

    Args:
        model: in whatever state; left in evaluation mode.
        rows: each with one learned token or more.
        pad_id: what pads rows.
        batch_size: rows at a time, at most.
        prefix: what makes batches of rows that begin alike; None where every row is to be padded.
    """
    import torch
    from torch.nn import functional

    found: list[Likelihood] = [Likelihood(0.0, 0, (), 0)] * len(rows)
    spans = [len(learned) - learned.index(True) + 1 for _, learned in rows]
    counts = [sum(learned) for _, learned in rows]
    model.eval()
    # Not inference_mode: what a layer caches during it can never be used in training again.
    with torch.no_grad():
        positions = CPU_POSITIONS if next(model.parameters()).device.type == "cpu" else math.inf
        for indices in batches_by_length([len(ids) for ids, _ in rows], batch_size, spans, positions):
            group = [rows[i] for i in indices]
            made = pad_batch(group, pad_id) if prefix is None else prefix.batch(group, pad_id)
            batch = to_device(made, model)
            inputs = {name: value for name, value in batch.items() if name not in ("labels", "shift_labels")}
            # The model's own loss may have a method's regulariser in it.
            logits, targets = learned_logits(model(**model_arguments(inputs, model)).logits, batch)
            # In parts that stay in the processor's cache: a vocabulary is wide.
            parts = list(zip(logits.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True))
            losses = torch.cat([functional.cross_entropy(one.float(), token, reduction="none") for one, token in parts])
            likeliest = torch.cat([one.argmax(dim=1) for one, _ in parts])
            each = [counts[i] for i in indices]
            by_row = zip(losses.double().split(each), likeliest.split(each), targets.split(each), strict=True)
            for i, (loss, best, wanted) in zip(indices, by_row, strict=True):
                found[i] = Likelihood(loss.sum().item(), counts[i], tuple(best.tolist()), int((best == wanted).sum()))
    return found
