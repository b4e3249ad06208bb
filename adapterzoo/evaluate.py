"""The measurement, the same for every row of the table: how likely the test rows are, and answers compared."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.errors import NotFiniteError
from adapterzoo.metric import RESERVED, overall, per_example
from adapterzoo.metric_registry import metrics as known_metrics
from adapterzoo.tokens.batches import Tokens, asked, pad_batch
from adapterzoo.tokens.encode import Encoded, Example
from adapterzoo.tokens.shared_prefix import SharedPrefix, for_model, learned_logits

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.recipe import EvaluateSection

# Of one batch, for which the output head is computed: 800 MB of logits with 50 thousand tokens in the vocabulary.
POSITIONS = 4096


class Likelihood(NamedTuple):
    """How likely a row's learned tokens are."""

    loss: float
    """summed over them, in nats"""
    tokens: int
    right: int
    """how many of them the model finds likelier than any other"""


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
        loss, tokens, right = self.likelihood or (None, None, None)
        asked = {"index": self.index, "prompt": self.prompt, "reference": self.reference, "prediction": self.prediction}
        return {**asked, "loss": loss, "tokens": tokens, "right_tokens": right, **self.scores}


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
    sharing: SharedPrefix | None = None,
) -> Evaluation:
    """Measure a model on the test split.

    Args:
        model: in whatever state; left in evaluation mode.
        encoded: its examples of ``part`` are used.
        settings: which metrics, and the batch size.
        prompts: other prompts for the same examples, in the same order (examples shown first, say).
        part: ``validation`` for what is only chosen by.
        sharing: what makes batches of rows that begin alike; None where every row is to be padded.
        likely: whether likelihoods are to be measured: of other prompts, only answers can be compared.

    Raises:
        NotFiniteError: the loss is NaN or infinite: the weights blew up in the last step, say.
        PluginError: a metric that somebody else brought does not do what the contract says.
    """
    examples: list[Example] = getattr(encoded, part)
    if prompts is None:
        rows, prompts = [example.tokens for example in examples], [example.prompt for example in examples]
    else:
        rows = [asked(prompt, example.completion) for prompt, example in zip(prompts, examples, strict=True)]
    found: Sequence[Likelihood | None] = [None] * len(rows)
    if likely:
        found = likelihoods(model, rows, encoded.pad_id, settings.batch_size, sharing)
    # First, so that weights that blew up are called that, whatever they would answer.
    measured = _likelihood_metrics([one for one in found if one is not None], settings)
    answers: Sequence[str | None] = [None] * len(examples)
    seconds = None
    if set(settings.metrics) - RESERVED:
        longest = max(len(example.completion) for example in examples)
        limit = longest if settings.max_new_tokens == "auto" else settings.max_new_tokens
        begun = time.perf_counter()
        answers = generate(model, encoded, prompts, settings.batch_size, limit)
        seconds = (time.perf_counter() - begun) / len(examples)
    compared, scores = _answer_metrics(examples, answers, settings)
    predictions = [
        Prediction(index, example.row.prompt, example.row.completion, answers[index], found[index], scores[index])
        for index, example in enumerate(examples)
    ]
    return Evaluation({**compared, **measured}, predictions, seconds)


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
        if name in RESERVED:
            continue
        metric = known_metrics()[name]
        scores = [per_example(metric, *pair) for pair in zip(references, given, strict=True)]
        together.update(overall(metric, references, given, scores))
        for row, score in zip(each, scores, strict=True):
            row.update(score)
    return together, each


def likelihoods(
    model: nn.Module, rows: Sequence[Tokens], pad_id: int, batch_size: int, sharing: SharedPrefix | None = None
) -> list[Likelihood]:
    """Return how likely the learned tokens of each row are.

    Args:
        model: in whatever state; left in evaluation mode.
        rows: each with one learned token or more.
        pad_id: what pads rows.
        batch_size: rows at a time, at most.
        sharing: what makes batches of rows that begin alike; None where every row is to be padded.
    """
    import torch
    from torch.nn import functional

    found: list[Likelihood] = [Likelihood(0.0, 0, 0)] * len(rows)
    spans = [len(learned) - learned.index(True) + 1 for _, learned in rows]
    counts = [sum(learned) for _, learned in rows]
    model.eval()
    # Not inference_mode: what a layer caches during it can never be used in training again.
    with torch.no_grad():
        for indices in _batches([len(ids) for ids, _ in rows], batch_size, spans):
            group = [rows[i] for i in indices]
            made = pad_batch(group, pad_id) if sharing is None else sharing.batch(group, pad_id)
            batch = to_device(made, model)
            inputs = {name: value for name, value in batch.items() if name not in ("labels", "shift_labels")}
            # The model's own loss may have a method's regulariser in it.
            logits, targets = learned_logits(model(**for_model(inputs, model)).logits, batch)
            losses = functional.cross_entropy(logits.float(), targets, reduction="none").double()
            right = logits.argmax(dim=1) == targets
            each = [counts[i] for i in indices]
            for i, loss, hits in zip(indices, losses.split(each), right.split(each), strict=True):
                found[i] = Likelihood(loss.sum().item(), counts[i], int(hits.sum()))
    return found


def generate(
    model: nn.Module, encoded: Encoded, prompts: Sequence[list[int]], batch_size: int, max_new_tokens: int
) -> list[str]:
    """Return the greedy answer to each prompt, up to the end token."""
    import torch
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=encoded.end_ids,
        pad_token_id=encoded.pad_id,
    )
    answers = [""] * len(prompts)
    model.eval()
    with torch.no_grad(), _no_generation_defaults(model):
        for indices in _batches([len(prompt) for prompt in prompts], batch_size):
            batch = pad_batch([asked(prompts[i]) for i in indices], encoded.pad_id)
            inputs = to_device({name: batch[name] for name in ("input_ids", "attention_mask")}, model)
            output = model.generate(**inputs, generation_config=settings)
            for i, ids in zip(indices, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((at for at, token in enumerate(ids) if token in encoded.end_ids), len(ids))
                answers[i] = encoded.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
    return answers


@contextmanager
def _no_generation_defaults(model: nn.Module) -> Iterator[None]:
    """Keep the model's own generation configuration out of its answers.

    It may sample or punish repetition, and transformers fills in from it whatever a configuration of ours leaves open.
    """
    from transformers import GenerationConfig

    own = [(module, vars(module)["generation_config"]) for module in model.modules() if _has_defaults(module)]
    for module, _ in own:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, configuration in own:
            module.generation_config = configuration


def _has_defaults(module: nn.Module) -> bool:
    return vars(module).get("generation_config") is not None


def to_device(batch: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The batch where the model's first parameter is."""
    where: torch.device = next(model.parameters()).device
    return {name: value.to(where) if hasattr(value, "to") else value for name, value in batch.items()}


def _batches(lengths: Sequence[int], size: int, spans: Sequence[int] | None = None) -> list[list[int]]:
    """Indices in batches of like length: little padding, and the same batches for every model.

    Args:
        spans: for how many positions each row needs the output head; a batch is smaller where they are many.
    """
    batches: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        span = spans[index] if spans else 1
        full = not batches or len(batches[-1]) == size or max(widest, span) * (len(batches[-1]) + 1) > POSITIONS
        if full:
            batches.append([])
            widest = 0
        batches[-1].append(index)
        widest = max(widest, span)
    return batches
