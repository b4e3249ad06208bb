"""The measurement, the same for every row of the table: loss on the answers, and answers compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.encode import IGNORED, Encoded, Example, pad_batch
from adapterzoo.errors import NotFiniteError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.recipe import EvaluateSection


@dataclass(frozen=True)
class Prediction:
    """One test example, asked and answered."""

    index: int
    prompt: str
    reference: str
    prediction: str | None
    """None where no metric needs an answer"""
    loss: float
    """summed over the reference's tokens, in nats"""
    tokens: int
    exact_match: bool | None

    def record(self) -> dict[str, Any]:
        """As a line of ``predictions.jsonl``."""
        return asdict(self)


def evaluate(
    model: nn.Module, encoded: Encoded, settings: EvaluateSection, prompts: Sequence[list[int]] | None = None
) -> tuple[dict[str, float], list[Prediction]]:
    """Measure a model on the test split.

    Args:
        model: in whatever state; left in evaluation mode.
        encoded: its ``test`` examples are used.
        settings: which metrics, and the batch size.
        prompts: other prompts for the same examples, in the same order (examples shown first, say).

    Returns:
        The metrics by name, and one prediction for each example.

    Raises:
        NotFiniteError: the loss is NaN or infinite: the weights blew up in the last step, say.
    """
    examples = encoded.test
    asked = [example.prompt for example in examples] if prompts is None else list(prompts)
    pairs = [(prompt, example.completion) for prompt, example in zip(asked, examples, strict=True)]
    losses = completion_losses(model, pairs, encoded.pad_id, settings.batch_size)
    answers: Sequence[str | None] = [None] * len(examples)
    if "exact_match" in settings.metrics:
        longest = max(len(example.completion) for example in examples)
        limit = longest if settings.max_new_tokens == "auto" else settings.max_new_tokens
        answers = generate(model, encoded, asked, settings.batch_size, limit)
    predictions = [_prediction(i, example, losses[i], answers[i]) for i, example in enumerate(examples)]
    loss = sum(p.loss for p in predictions) / sum(p.tokens for p in predictions)
    if not math.isfinite(loss):
        raise NotFiniteError(f"the test loss is {loss}")
    metrics: dict[str, float] = {}
    if "loss" in settings.metrics:
        metrics["test_loss"] = loss
    if "perplexity" in settings.metrics:
        metrics["perplexity"] = math.exp(min(loss, 700.0))
    if "exact_match" in settings.metrics:
        metrics["exact_match"] = sum(bool(p.exact_match) for p in predictions) / len(predictions)
    return metrics, predictions


def completion_losses(
    model: nn.Module, pairs: Sequence[tuple[list[int], list[int]]], pad_id: int, batch_size: int
) -> list[float]:
    """The negative log-likelihood of each completion after its prompt, summed over its tokens, in nats."""
    import torch
    from torch.nn import functional

    losses = [0.0] * len(pairs)
    model.eval()
    # Not inference_mode: what a layer caches during it can never be used in training again.
    with torch.no_grad():
        for indices in _batches([len(p) + len(c) for p, c in pairs], batch_size):
            batch = to_device(pad_batch([pairs[i] for i in indices], pad_id), model)
            labels = batch.pop("labels")
            # The model's own loss may have a method's regulariser in it.
            logits = model(**batch).logits[:, :-1].float()
            targets = labels[:, 1:]
            nll = functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
            for i, value in zip(indices, nll.double().sum(dim=1).tolist(), strict=True):
                losses[i] = value
    return losses


def generate(
    model: nn.Module, encoded: Encoded, prompts: Sequence[list[int]], batch_size: int, max_new_tokens: int
) -> list[str]:
    """The greedy answer to each prompt, up to the end token."""
    import torch
    from transformers import GenerationConfig

    # A configuration of our own: a model's may sample, or punish repetition.
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
    with torch.no_grad():
        for indices in _batches([len(prompt) for prompt in prompts], batch_size):
            batch = pad_batch([(prompts[i], []) for i in indices], encoded.pad_id)
            inputs = to_device({name: batch[name] for name in ("input_ids", "attention_mask")}, model)
            output = model.generate(**inputs, generation_config=settings)
            for i, ids in zip(indices, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((at for at, token in enumerate(ids) if token in encoded.end_ids), len(ids))
                answers[i] = encoded.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
    return answers


def to_device(batch: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The batch where the model's first parameter is."""
    where: torch.device = next(model.parameters()).device
    return {name: value.to(where) if hasattr(value, "to") else value for name, value in batch.items()}


def _batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in batches of like length: little padding, and the same batches for every model."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _prediction(index: int, example: Example, loss: float, answer: str | None) -> Prediction:
    return Prediction(
        index=index,
        prompt=example.row.prompt,
        reference=example.row.completion,
        prediction=answer,
        loss=loss,
        tokens=len(example.completion),
        exact_match=None if answer is None else answer == example.row.completion,
    )
