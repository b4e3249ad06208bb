"""Join the rows of a batch in one sequence, so that their common prefix is computed once and nothing is padded.

The sequence is the common prefix, if there is one, and then each row's own tokens. The positions of each row
continue after the prefix. A token sees the prefix and the earlier tokens of its own row. Either a mask over the whole
sequence does this, which is fastest for short rows, or attention is computed row by row (row_attention.py). So each
token sees the same tokens as in a padded batch, but the chat template's beginning and the system message, which are
often most of a row, are computed only once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.model.row_attention import ROW_LENGTHS, has_row_attention, in_one_kernel
from adapterzoo.model.row_cache import padded_cache, row_caches
from adapterzoo.tokens.batches import IGNORED, Tokens, pad_batch, to_device, without_labels

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import DynamicCache

ATTENTION_COST = 4.0
"""CPU time of one operation of attention; the unit is the time of one operation of a matrix product"""
ROW_OPERATIONS = 1.5e7
"""CPU time that a layer needs to begin another row, in the same unit"""
# The logits of joined rows may differ from those of padded rows by rounding, but not more.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}
"""dtype -> largest allowed mean difference from the logits of a padded batch, as a share of their standard deviation"""
# Settings of a model's configuration: how far back a layer sees, and dropout in attention.
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
LENGTH_DEPENDENT_ROPES = {"longrope", "dynamic"}
MAX_COMPARED_LOGITS = 64  # positions of a row whose logits are compared; all of a long row would need much memory
MAX_ERROR_LENGTH = 100  # in characters; a library's error may be many lines long
# Arguments of the trainer that make a row's loss depend on more than its learned tokens.
PADDED_ROWS_ONLY = ("label_smoothing_factor", "neftune_noise_alpha")


@dataclass(frozen=True)
class SharedPrefix:
    """Makes batches in the form that costs least: padded rows, or joined rows with a mask or row by row.

    The unit of all costs is the time of one position in all layers without their attention.
    """

    pair_cost: float
    """cost of a pair of positions in attention"""
    row_cost: float | None = None
    """cost of computing the attention of one more row by itself; None if the model cannot do that"""

    @classmethod
    def of(cls, model: nn.Module) -> SharedPrefix:
        """Return the costs for the sizes of a model."""
        config: Any = model.config
        text = config.get_text_config()
        embedded = model.get_input_embeddings().weight.numel()
        linear = max(sum(parameter.numel() for parameter in model.parameters()) - embedded, 1)
        row_cost = ROW_OPERATIONS * text.num_hidden_layers / linear if has_row_attention(model) else None
        pair_cost = ATTENTION_COST * 2 * text.hidden_size * text.num_hidden_layers / linear
        return cls(pair_cost, 0.0 if in_one_kernel(model) else row_cost)

    def joining_is_cheaper(self, rows: Sequence[Tokens]) -> bool:
        """Tell whether joined rows cost less than padded ones."""
        return min(self._joined_costs(rows)) < self._padded_cost(rows)

    def batch(self, rows: Sequence[Tokens], pad_id: int) -> dict[str, Any]:
        """Return rows as a batch in the form that costs least; call a model through :func:`model_arguments`."""
        masked, by_row = self._joined_costs(rows)
        return joined_batch(rows, by_row=by_row < masked) if self.joining_is_cheaper(rows) else pad_batch(rows, pad_id)

    def _padded_cost(self, rows: Sequence[Tokens]) -> float:
        width = max(len(ids) for ids, _ in rows)
        return len(rows) * (width + self.pair_cost * width**2)

    def _joined_costs(self, rows: Sequence[Tokens]) -> tuple[float, float]:
        """Return the cost of joined rows with a mask, and the cost row by row."""
        prefix = common_prefix(rows)
        own = [len(ids) - prefix for ids, _ in rows]
        positions = prefix + sum(own)
        masked = positions + self.pair_cost * positions**2
        if self.row_cost is None:
            return masked, math.inf
        pairs = prefix**2 + sum(length * (prefix + length) for length in own)
        return masked, positions + self.pair_cost * pairs + self.row_cost * len(rows)


def common_prefix(rows: Sequence[Tokens]) -> int:
    """Return the number of tokens with which all rows begin.

    The prefix ends before the first token that predicts a learned one, because each row has its own learned tokens.
    """
    limit = min(learned.index(True) - 1 if True in learned else len(ids) - 1 for ids, learned in rows)
    first = rows[0][0]
    for index in range(limit):
        if any(ids[index] != first[index] for ids, _ in rows):
            return index
    return max(limit, 0)


def joined_batch(rows: Sequence[Tokens], *, by_row: bool = False) -> dict[str, Any]:
    """Return rows as one sequence.

    Returns:
        ``input_ids`` and ``position_ids``, tensors of shape (1, positions). ``labels`` and ``shift_labels``, of shape
        (1, learned tokens): the learned tokens, row by row. ``logits_to_keep``, of shape (learned tokens,): the
        positions that predict them. ``row_lengths``: see ROW_LENGTHS. ``visible``, of shape (1, 1, positions,
        positions): which positions each one sees; left out with ``by_row``. ``attention_mask``, of shape (1, tokens of
        all rows): only for counting tokens, it must not be given to the model.
    """
    import torch

    prefix = common_prefix(rows)
    ids, positions = list(rows[0][0][:prefix]), list(range(prefix))
    owner = [0] * prefix  # number of the row that each position belongs to; 0 for the prefix
    predicting, targets = [], []
    for number, (row, learned) in enumerate(rows, start=1):
        shift = len(ids) - prefix  # from an index in the row to its index in the sequence
        predicting += [shift + index - 1 for index, wanted in enumerate(learned) if wanted]
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
        visible = (owners[:, None] == owners[None, :]) | (owners[None, :] == 0)
        batch["visible"] = visible.tril()[None, None]
    return batch


def model_arguments(batch: dict[str, Any], model: Any, cache: DynamicCache | None = None) -> dict[str, Any]:
    """Return the arguments to call a model with for a batch of padded or joined rows.

    Args:
        batch: the batch.
        model: the model.
        cache: receives the keys and values of all tokens.
    """
    import torch

    if cache is not None:
        batch = {**batch, "past_key_values": cache, "use_cache": True}
    if ROW_LENGTHS not in batch:
        return batch
    batch = {"use_cache": False, **batch}
    if "visible" not in batch:
        # Given a mask of four dimensions, transformers makes no mask of its own; row attention ignores this one.
        return {**batch, "attention_mask": torch.empty(1, 1, 0, 0, device=batch["input_ids"].device)}
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    mask = torch.zeros(batch["visible"].shape, dtype=dtype, device=batch["visible"].device)
    mask.masked_fill_(~batch["visible"], torch.finfo(dtype).min)
    arguments = {name: value for name, value in batch.items() if name not in ("visible", ROW_LENGTHS)}
    return {**arguments, "attention_mask": mask}


def reason_not_to_join(
    model: nn.Module, rows: Sequence[Tokens], pad_id: int, quantization: str, longest: int | None = None
) -> str | None:
    """Return why a model's rows cannot be joined; None if joining changes its logits only by rounding.

    Args:
        model: the model, in training mode or not.
        rows: some rows for training or evaluation, including the longest one.
        pad_id: id of the padding token.
        quantization: quantization of the base model.
        longest: largest number of tokens of a row with its answer; by default, that of the longest of the rows.
    """
    import torch

    if quantization == "int8":
        return "an int8 layer looks at the whole batch to choose the columns that it rounds"
    longest = longest or max(len(ids) for ids, _ in rows)
    if reason := _reason_in_config(model, longest):
        return reason
    training = model.training
    model.eval()
    # Try the mask on the two shortest rows only, because a mask over all of them may not fit into memory.
    shortest = sorted(rows, key=lambda row: len(row[0]))[:2]
    tries = [(rows, True), (shortest, False)] if has_row_attention(model) else [(rows, False)]
    try:
        with torch.no_grad():
            differences = [_joined_difference(model, tried, pad_id, by_row) for tried, by_row in tries]
            differences.append(_continued_difference(model, rows[:2], pad_id))
    except Exception as error:  # an architecture that does not accept such a mask or cache may raise any error
        why = "its architecture does not accept a mask for each position, or a cache that is filled beforehand"
        return f"{why} ({type(error).__name__}: {' '.join(str(error).split())[:MAX_ERROR_LENGTH]})"
    finally:
        model.train(training)
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    if too_large := [value for value in differences if not value <= TOLERANCE.get(dtype, 0.0)]:
        return f"its logits would differ by {max(too_large):.2g} of their standard deviation"
    return None


def _reason_in_config(model: Any, longest: int) -> str | None:
    """Return which setting of a model depends on the place in the sequence or on the whole batch; None if none does."""
    config = model.config.get_text_config()
    if getattr(config, "output_router_logits", False):
        return "its router's loss depends on the whole batch"
    for name in WINDOWS:
        window = getattr(config, name, None)
        # A window counts places in the sequence, where other rows are between the prefix and a row.
        if isinstance(window, int) and (window < longest or name == "window_size"):
            return f"a layer sees the last {window} tokens, and rows have up to {longest}"
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in rope.values() if isinstance(value, dict)]
    kinds = {str(kind) for part in (rope, *nested) for kind in (part.get("rope_type"), part.get("type"))}
    if kinds & LENGTH_DEPENDENT_ROPES:
        return "its positions depend on how long the sequence is"
    return None


def reason_not_to_train_joined(model: nn.Module, arguments: Mapping[str, Any]) -> str | None:
    """Return why rows that can be joined in evaluation cannot be joined in training; None if they can.

    Args:
        model: the model with its adapter.
        arguments: the recipe's arguments for the trainer.
    """
    from torch.nn.modules.dropout import _DropoutNd

    config: Any = model.config
    text = config.get_text_config()
    dropout = any(getattr(text, name, 0.0) for name in DROPOUTS)
    if dropout or any(isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules()):
        return "it uses dropout, which would draw other random numbers"
    changed = [name for name in PADDED_ROWS_ONLY if arguments.get(name)]
    return f"{changed[0]} needs padded rows" if changed else None


def learned_logits(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits that predict learned tokens, (learned tokens, vocabulary), and these tokens, row by row."""
    return next(learned_parts(logits, batch, batch["labels"].numel()))


def learned_parts(
    logits: torch.Tensor, batch: dict[str, Any], size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what :func:`learned_logits` returns, in parts of at most ``size`` tokens."""
    if ROW_LENGTHS in batch:
        yield from zip(logits[0].split(size), batch["labels"][0].split(size), strict=True)
        return
    targets = batch["labels"][:, 1:]
    learned = (targets != IGNORED).nonzero()
    logits = logits[:, -batch["labels"].shape[1] :]  # a model that ignores logits_to_keep returns more of them
    for rows, positions in (indices.unbind(1) for indices in learned.split(size)):
        yield logits[rows, positions], targets[rows, positions]


def _continued_difference(model: Any, rows: Sequence[Tokens], pad_id: int) -> float:
    """Return how far the last logits of rows are from those that are computed from the cache of the rows' beginnings.

    A single position would not do: in bfloat16, rounding changes its logits by up to 0.2 of their standard deviation.
    """
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    batch = to_device(joined_batch(rows, by_row=has_row_attention(model)), model)
    model(**model_arguments({**without_labels(batch), "logits_to_keep": 1}, model, cache))
    last = max(1, min(MAX_COMPARED_LOGITS, *(len(ids) // 2 for ids, _ in rows)))
    known = [len(ids) - last for ids, _ in rows]
    begun, mask = padded_cache(row_caches(cache, batch), known)
    ends = {"input_ids": [ids[-last:] for ids, _ in rows], "position_ids": [[*range(n, n + last)] for n in known]}
    arguments = to_device({name: torch.tensor(value) for name, value in ends.items()}, model)
    seen = torch.cat([mask, mask.new_ones(len(rows), last)], dim=1)
    continued = model(**arguments, attention_mask=seen, past_key_values=begun, use_cache=True).logits
    padded = to_device(pad_batch(rows, pad_id), model)
    whole = model(**{**without_labels(padded), "logits_to_keep": last}).logits
    return _difference(whole[:, -last:].float(), continued.float())


def _joined_difference(model: Any, rows: Sequence[Tokens], pad_id: int, by_row: bool) -> float:
    """Return the larger difference, of loss or of logits, between joined and padded rows."""
    loss, padded = _loss_and_logits(model, pad_batch(rows, pad_id))
    joined_loss, joined = _loss_and_logits(model, joined_batch(rows, by_row=by_row))
    return max(_difference(padded, joined), abs(joined_loss - loss) / max(loss, 1.0))


def _difference(expected: torch.Tensor, logits: torch.Tensor) -> float:
    """Return the mean difference of logits from the expected ones, as a share of their standard deviation."""
    return float((logits - expected).abs().mean() / expected.std())


def _loss_and_logits(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Return a batch's loss and the logits that predict its learned tokens."""
    batch = to_device(batch, model)
    output = model(**model_arguments(batch, model))
    logits, _ = learned_logits(output.logits, batch)
    return output.loss.item(), logits.float()
