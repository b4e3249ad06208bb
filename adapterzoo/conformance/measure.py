"""Measure a model on the four rows of the kit: its logits, its loss, and the text it generates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.conformance.task_rows import TaskRows
    from adapterzoo.tokens.batches import Tokens
    from adapterzoo.tokens.encoded import Encoded

NEW_TOKENS = 4
SHARED_TOKENS = 8
MANY = 9
"""number of rows in the batches of many rows"""


def logits(model: nn.Module, encoded: Encoded | TaskRows, size: int | None = None) -> torch.Tensor:
    """Return the logits of all tokens that are not padding, of shape (tokens, vocabulary), in the machine's memory.

    For a task whose model is no causal language model, return its outputs in one dimension.

    Args:
        model: the model.
        encoded: the rows.
        size: number of rows in a padded batch; None for all rows in one.
    """
    import torch

    from adapterzoo.conformance.task_rows import TaskRows

    model.eval()
    if isinstance(encoded, TaskRows):
        with torch.no_grad():
            return torch.cat([encoded.outputs(model, group) for group in _groups(encoded.test, size)]).cpu()
    rows = [example.tokens for example in encoded.test]
    with torch.no_grad():
        per_row = [row for batch in _groups(rows, size) for row in _forward(model, batch, encoded.pad_id)]
    return torch.cat(per_row).cpu()


def _groups(rows: Sequence[Any], size: int | None) -> list[Sequence[Any]]:
    """Return the rows in groups of a size; in one group if it is None."""
    size = size or len(rows)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@cache
def base_logits(architecture: str, quantization: str, task_type: str) -> dict[str, torch.Tensor]:
    """Return the logits of the untouched base model, which are the same for every method: name -> logits."""
    from adapterzoo.conformance.models import CAUSAL, rows, rows_for, tiny_base
    from adapterzoo.model.head import put_new_head
    from adapterzoo.quantizations.registry import quantizations

    tried: Any = rows() if task_type == CAUSAL else rows_for(task_type)
    with tiny_base(architecture, quantization, task_type=task_type).borrow() as model:
        put_new_head(model, 0)
        found = {"base": logits(model, tried), "base alone": logits(model, tried, 1)}
        if task_type == CAUSAL and not quantizations()[quantization].batch_dependent:
            found.update(logits_of_many(model, "base, "))
    return found


def loss(model: nn.Module, encoded: Encoded | TaskRows) -> float:
    """Return the mean loss per token of the completions, computed as in an evaluation; or the loss of the task."""
    import torch

    from adapterzoo.conformance.task_rows import TaskRows
    from adapterzoo.evaluation.likelihood import likelihoods
    from adapterzoo.tokens.batches import to_device

    if isinstance(encoded, TaskRows):
        model.eval()
        with torch.no_grad():
            return float(encoded.loss(model, to_device(encoded.collate(encoded.train), model)))
    rows = likelihoods(model, [example.tokens for example in encoded.train], encoded.pad_id, len(encoded.train))
    return sum(row.loss for row in rows) / sum(row.tokens for row in rows)


def labels_gap(model: nn.Module, encoded: Encoded) -> float:
    """Return how far logits in training depend on the labels, which a model may only use for its loss."""
    import torch

    from adapterzoo.tokens.batches import pad_batch, to_device

    rows = [example.tokens for example in encoded.train]
    batch = {**to_device(pad_batch(rows, encoded.pad_id), model), "logits_to_keep": 0}
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    other = torch.where(labels < 0, labels, (labels + 1) % labels[labels >= 0].max())
    found = []
    model.train()
    with torch.no_grad():
        for given in (labels, labels, other):
            torch.manual_seed(0)
            found.append(model(**{**batch, "labels": given}).logits)
    same, different = ((logits - found[0]).abs().max().item() for logits in found[1:])
    return different if different > 10 * same else 0.0  # a model that changes in each call differs by itself


def greedy(model: Any, encoded: Encoded) -> list[list[int]]:
    """Return the first tokens of the greedy answer to each prompt, generated with a cache and padding."""
    import torch
    from transformers import GenerationConfig

    from adapterzoo.tokens.batches import pad_batch, row_tokens, to_device

    batch = to_device(pad_batch([row_tokens(example.prompt) for example in encoded.test], encoded.pad_id), model)
    # Let no token end an answer, because greedy_gap would take the padding after it for chosen tokens with low logits.
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=encoded.pad_id, eos_token_id=-1
    )
    model.eval()
    with torch.no_grad():
        output = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings
        )
    answers: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return answers


def greedy_gap(model: Any, encoded: Encoded) -> float:
    """Return the largest distance of a generated token's logit below the highest logit of a plain forward pass."""
    import torch

    from adapterzoo.tokens.batches import row_tokens

    gaps: list[float] = []
    for example, answer in zip(encoded.test, greedy(model, encoded), strict=True):
        with torch.no_grad():
            (row,) = _forward(model, [row_tokens(example.prompt + answer[:-1])], encoded.pad_id)
        answer_logits = row[-NEW_TOKENS:]
        chosen = answer_logits.gather(1, torch.tensor(answer, device=row.device)[:, None])[:, 0]
        gaps.append((answer_logits.max(dim=1).values - chosen).max().item())
    return max(gaps)


def shared_prefix_gap(model: Any, encoded: Encoded) -> float:
    """Return the relative difference of loss and gradients between padded rows and rows with a shared prefix."""
    import torch

    from adapterzoo.model.row_attention import has_row_attention
    from adapterzoo.tokens.batches import pad_batch, to_device
    from adapterzoo.tokens.shared_prefix import joined_batch, model_arguments

    prefix = list(range(3, 3 + SHARED_TOKENS))
    rows = [([*prefix, *ids], [False] * SHARED_TOKENS + learned) for ids, learned in (e.tokens for e in encoded.train)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    results = []  # for each batch, the loss and then the gradients
    model.train()
    ways = (False, True) if has_row_attention(model) else (False,)
    for batch in (pad_batch(rows, encoded.pad_id), *(joined_batch(rows, by_row=by_row) for by_row in ways)):
        loss = model(**model_arguments(to_device(batch, model), model)).loss
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        results.append([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients if g is not None)])
    return max(
        relative_difference(torch.cat(results[0][part]), torch.cat(joined[part]))
        for part in (slice(1), slice(1, None))  # the loss, and all gradients
        for joined in results[1:]
    )


def logits_of_many(model: nn.Module, whose: str = "") -> dict[str, torch.Tensor]:
    """Return the logits of more and longer rows, in one batch and in several: name -> logits.

    Args:
        model: the model.
        whose: begins the names.
    """
    from adapterzoo.conformance.models import equal_rows, many_rows

    return {
        f"{whose}many rows": logits(model, many_rows()),
        f"{whose}many rows in nines": logits(model, many_rows(), MANY),
        f"{whose}equal rows": logits(model, equal_rows()),
        f"{whose}equal rows alone": logits(model, equal_rows(), 1),
    }


def relative_difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Return the norm of the difference of two tensors as a share of that of the first; zero if that is zero."""
    size = expected.norm().item()
    return (actual - expected).norm().item() / size if size else 0.0


def _forward(model: Any, rows: Sequence[Tokens], pad_id: int) -> list[torch.Tensor]:
    """Return for each row of one batch the logits of its tokens that are not padding."""
    from adapterzoo.tokens.batches import pad_batch, to_device

    batch = to_device(pad_batch(rows, pad_id), model)
    batch.pop("labels")
    padded = model(**{**batch, "logits_to_keep": 0}).logits.float()
    return [row[mask.bool()] for row, mask in zip(padded, batch["attention_mask"], strict=True)]
