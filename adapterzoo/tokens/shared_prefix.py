"""Rows joined in one sequence: what all begin with goes through the model once, and there is no padding.

The sequence is the common prefix, if there is one, and then each row's own tokens, with positions that go on after the
prefix in each row. A row's tokens see the prefix and, causally, their own row: by a mask over the whole sequence, which
short rows are fastest with, or row by row (row_attention.py). So each token is computed from the very tokens that it
would see in a padded batch: chat template and system prompt, often most of a row, are just not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.model.row_attention import ROW_LENGTHS, has_row_attention, in_one_kernel
from adapterzoo.tokens.batches import IGNORED, Tokens, pad_batch, to_device

if TYPE_CHECKING:
    import torch
    from torch import nn

# How much longer a CPU takes for an operation of attention than for one of a matrix product.
ATTENTION_COST = 4.0
# What a CPU could multiply and add in the time that a layer takes to begin with another row.
ROW_OPERATIONS = 1.5e7
# How far logits may be from a padded batch's, as a share of their spread: only rounding is another.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}
# Of a configuration: how far back a layer sees, and what drops out in attention.
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
LENGTH_DEPENDENT_ROPES = {"longrope", "dynamic"}
# Of the trainer's arguments, those by which a row's loss is no longer that of its own tokens alone.
ON_WHOLE_ROWS = ("label_smoothing_factor", "neftune_noise_alpha")


@dataclass(frozen=True)
class SharedPrefix:
    """Makes batches in whichever form costs least: padded rows, or joined ones, by a mask or row by row.

    Costs are in units of what a position costs in all layers but attention.
    """

    pair_cost: float
    """of a pair of positions in attention"""
    row_cost: float | None = None
    """of each row that attention is computed of by itself; None where the model cannot do that"""

    @classmethod
    def of(cls, model: nn.Module) -> SharedPrefix:
        """Return what suits a model's sizes."""
        config: Any = model.config
        text = config.get_text_config()
        embedded = model.get_input_embeddings().weight.numel()
        linear = max(sum(parameter.numel() for parameter in model.parameters()) - embedded, 1)
        row_cost = ROW_OPERATIONS * text.num_hidden_layers / linear if has_row_attention(model) else None
        pair_cost = ATTENTION_COST * 2 * text.hidden_size * text.num_hidden_layers / linear
        return cls(pair_cost, 0.0 if in_one_kernel(model) else row_cost)

    def joining_is_cheaper(self, rows: Sequence[Tokens]) -> bool:
        """Return whether joined rows cost less than padded ones."""
        return min(self._joined_costs(rows)) < self._padded_cost(rows)

    def batch(self, rows: Sequence[Tokens], pad_id: int) -> dict[str, Any]:
        """Return rows in the form that costs least; :func:`model_arguments` makes a model's arguments of it."""
        masked, by_row = self._joined_costs(rows)
        return joined_batch(rows, by_row=by_row < masked) if self.joining_is_cheaper(rows) else pad_batch(rows, pad_id)

    def _padded_cost(self, rows: Sequence[Tokens]) -> float:
        width = max(len(ids) for ids, _ in rows)
        return len(rows) * (width + self.pair_cost * width**2)

    def _joined_costs(self, rows: Sequence[Tokens]) -> tuple[float, float]:
        """Return what they cost with a mask, and row by row."""
        prefix = common_prefix(rows)
        own = [len(ids) - prefix for ids, _ in rows]
        positions = prefix + sum(own)
        masked = positions + self.pair_cost * positions**2
        if self.row_cost is None:
            return masked, math.inf
        pairs = prefix**2 + sum(length * (prefix + length) for length in own)
        return masked, positions + self.pair_cost * pairs + self.row_cost * len(rows)


def common_prefix(rows: Sequence[Tokens]) -> int:
    """Return how many tokens all rows begin with, up to the one that predicts the first learned token of a row."""
    limit = min(learned.index(True) - 1 if True in learned else len(ids) - 1 for ids, learned in rows)
    first = rows[0][0]
    for at in range(limit):
        if any(ids[at] != first[at] for ids, _ in rows):
            return at
    return max(limit, 0)


def joined_batch(rows: Sequence[Tokens], *, by_row: bool = False) -> dict[str, Any]:
    """Return rows as one sequence of tensors, each of shape (1, positions) where nothing else is said.

    ``labels`` and ``shift_labels``, of shape (1, learned tokens), are the learned tokens, row by row, and
    ``logits_to_keep``, of shape (learned tokens,), the positions that predict them. ``row_lengths``, whole numbers, are
    those of the prefix and of what each row has after it. ``visible``, of shape (1, 1, positions, positions), says
    which positions each one sees; it is left out with ``by_row``. ``attention_mask``, of shape (1, real tokens of all
    rows), is there to count tokens by, and must not reach the model.
    """
    import torch

    prefix = common_prefix(rows)
    ids, positions, owner = list(rows[0][0][:prefix]), list(range(prefix)), [0] * prefix
    predicting, targets = [], []
    for number, (row, learned) in enumerate(rows, start=1):
        begins = len(ids) - prefix
        predicting += [begins + at - 1 for at, wanted in enumerate(learned) if wanted]
        targets += [token for token, wanted in zip(row, learned, strict=True) if wanted]
        ids += row[prefix:]
        positions += range(prefix, len(row))
        owner += [number] * (len(row) - prefix)
    labels = torch.tensor([targets])
    batch = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        ROW_LENGTHS: (prefix, *(len(row) - prefix for row, _ in rows)),
        "attention_mask": torch.ones(1, sum(len(row) for row, _ in rows), dtype=torch.long),
        "labels": labels,
        "shift_labels": labels,
        "logits_to_keep": torch.tensor(predicting),
    }
    if not by_row:
        owners = torch.tensor(owner)
        own = (owners[:, None] == owners[None, :]) | (owners[None, :] == 0)
        batch["visible"] = own.tril()[None, None]
    return batch


def model_arguments(batch: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return what a model is called with: of joined rows with a mask in its own precision, or with their lengths."""
    import torch

    if ROW_LENGTHS not in batch:
        return batch
    if "visible" not in batch:
        # In four dimensions: transformers makes no mask of its own then, and attention does not look at it.
        no_mask = torch.empty(1, 1, 0, 0, device=batch["input_ids"].device)
        return {**batch, "attention_mask": no_mask, "use_cache": False}
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    hidden = torch.zeros(batch["visible"].shape, dtype=dtype, device=batch["visible"].device)
    hidden.masked_fill_(~batch["visible"], torch.finfo(dtype).min)
    arguments = {name: value for name, value in batch.items() if name not in ("visible", ROW_LENGTHS)}
    return {**arguments, "attention_mask": hidden, "use_cache": False}


def reason_not_to_join(
    model: nn.Module, rows: Sequence[Tokens], pad_id: int, quantization: str, longest: int | None = None
) -> str | None:
    """Return why a model cannot have its rows joined; None where its answers are the same, but for rounding.

    Args:
        model: in whatever state.
        rows: some that it is to be trained or measured on, the longest among them.
        pad_id: of the tokenizer.
        quantization: of the base.
        longest: how many tokens a row with its answer comes to at most; by default the longest of the rows.
    """
    import torch

    if quantization == "int8":
        return "an int8 layer chooses by the whole batch which columns it rounds"
    longest = longest or max(len(ids) for ids, _ in rows)
    if reason := _why_not_by_its_configuration(model, longest):
        return reason
    training = model.training
    model.eval()
    # A mask over all of them may not fit, and would not be chosen: two are enough to see whether one can be had.
    few = sorted(rows, key=lambda row: len(row[0]))[:2]
    trials = [(rows, True), (few, False)] if has_row_attention(model) else [(rows, False)]
    try:
        with torch.no_grad():
            gaps = [_joined_gap(model, some, pad_id, by_row) for some, by_row in trials]
            gaps.append(_gap(*_last_logits(model, rows[0][0])))
    except Exception:  # an architecture that takes no such mask, or another cache, may raise anything
        return "its architecture takes no mask of its own for each position, or no cache that is filled beforehand"
    finally:
        model.train(training)
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    if wrong := [gap for gap in gaps if not gap <= TOLERANCE.get(dtype, 0.0)]:
        return f"its logits would differ by {max(wrong):.2g} of their spread"
    return None


def _why_not_by_its_configuration(model: Any, longest: int) -> str | None:
    """Return what in a model's configuration goes by the place in a sequence, or by the whole batch."""
    config = model.config.get_text_config()
    if getattr(config, "output_router_logits", False):
        return "its router's loss is one of the whole batch"
    for name in WINDOWS:
        window = getattr(config, name, None)
        # A window counts places in the sequence, and in one of joined rows other rows are between.
        if isinstance(window, int) and (window < longest or name == "window_size"):
            return f"a layer sees the last {window} tokens, and rows have up to {longest}"
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {str(one) for part in (rope, *_parts(rope)) for one in (part.get("rope_type"), part.get("type"))}
    if kinds & LENGTH_DEPENDENT_ROPES:
        return "its positions depend on how long the sequence is"
    return None


def _parts(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for value in settings.values() if isinstance(value, dict)]


def reason_not_to_train_joined(model: nn.Module, arguments: Mapping[str, Any]) -> str | None:
    """Return why rows cannot be joined in training though they can in measuring; None where they can.

    Args:
        model: with its adapter.
        arguments: more arguments of the trainer.
    """
    from torch.nn.modules.dropout import _DropoutNd

    config: Any = model.config
    text = config.get_text_config()
    dropout = any(getattr(text, name, 0.0) for name in DROPOUTS)
    if dropout or any(isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules()):
        return "it uses dropout, whose random numbers would fall otherwise"
    changed = [name for name in ON_WHOLE_ROWS if arguments.get(name)]
    return f"{changed[0]} is made for padded rows" if changed else None


def learned_logits(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits that predict learned tokens, (learned tokens, vocabulary), and these tokens, row by row."""
    if ROW_LENGTHS in batch:
        return logits[0], batch["labels"][0]
    targets = batch["labels"][:, 1:]
    wanted = targets != IGNORED
    return logits[:, :-1][wanted], targets[wanted]


def _last_logits(model: Any, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits after a row, computed at once, and going on from the cache of its first half."""
    import torch
    from transformers import DynamicCache

    row = torch.tensor([ids], device=next(model.parameters()).device)
    cache, half = DynamicCache(config=model.config), len(ids) // 2
    model(input_ids=row[:, :half], past_key_values=cache, use_cache=True)
    rest = {
        "attention_mask": torch.ones_like(row),
        "position_ids": torch.arange(half, len(ids), device=row.device)[None],
    }
    continued = model(input_ids=row[:, half:], past_key_values=cache, use_cache=True, **rest).logits
    return model(input_ids=row, use_cache=False).logits[0, -1].float(), continued[0, -1].float()


def _joined_gap(model: Any, rows: Sequence[Tokens], pad_id: int, by_row: bool) -> float:
    """Return how far loss and logits of joined rows are from those of padded ones."""
    loss, padded = _answered(model, pad_batch(rows, pad_id))
    joined_loss, joined = _answered(model, joined_batch(rows, by_row=by_row))
    return max(_gap(padded, joined), abs(joined_loss - loss) / max(loss, 1.0))


def _gap(right: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far logits are from the right ones, as a share of these ones' spread."""
    return float((other - right).abs().mean() / right.std())


def _answered(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Return a batch's loss and the logits that predict its learned tokens."""
    batch = to_device(batch, model)
    answered = model(**model_arguments(batch, model))
    return answered.loss.item(), learned_logits(answered.logits, batch)[0].float()
