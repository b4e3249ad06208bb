"""Find out whether the rows of a batch can be joined in one sequence without changing what a model computes.

Settings of the model that make it depend on the place in a sequence are refused at once. Then some rows are tried:
joined and padded, they must give the same loss and logits, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.model.config import text_config
from adapterzoo.model.row_attention import has_row_attention
from adapterzoo.model.row_cache import padded_cache, row_caches
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.tokens.batches import Tokens, pad_batch, to_device, without_labels
from adapterzoo.tokens.shared_prefix import joined_batch, learned_logits, model_arguments

if TYPE_CHECKING:
    import torch
    from torch import nn

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

    if quantizations()[quantization].batch_dependent:
        return f"an {quantization} layer looks at the whole batch to choose the columns that it rounds"
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
    config = text_config(model.config)
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

    text = text_config(model.config)
    dropout = any(getattr(text, name, 0.0) for name in DROPOUTS)
    if dropout or any(isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules()):
        return "it uses dropout, which would draw other random numbers"
    changed = [name for name in PADDED_ROWS_ONLY if arguments.get(name)]
    return f"{changed[0]} needs padded rows" if changed else None


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
    return difference(whole[:, -last:].float(), continued.float())


def _joined_difference(model: Any, rows: Sequence[Tokens], pad_id: int, by_row: bool) -> float:
    """Return the larger difference, of loss or of logits, between joined and padded rows."""
    loss, padded = loss_and_logits(model, pad_batch(rows, pad_id))
    joined_loss, joined = loss_and_logits(model, joined_batch(rows, by_row=by_row))
    return max(difference(padded, joined), abs(joined_loss - loss) / max(loss, 1.0))


def difference(expected: torch.Tensor, logits: torch.Tensor) -> float:
    """Return the mean difference of logits from the expected ones, as a share of their standard deviation."""
    return float((logits - expected).abs().mean() / expected.std())


def loss_and_logits(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Return a batch's loss and the logits that predict its learned tokens."""
    batch = to_device(batch, model)
    output = model(**model_arguments(batch, model))
    logits, _ = learned_logits(output.logits, batch)
    return output.loss.item(), logits.float()
