"""Rows that begin alike as one sequence: the common prefix goes through the model once, and there is no padding.

The sequence is the prefix and then each row's own tokens, with positions that go on after the prefix in each row. A
mask lets a row's tokens see the prefix and, causally, their own row. So each token is computed from the very tokens
that it would see in a padded batch: chat template and system prompt, often most of a row, are just not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.tokens.batches import IGNORED, Tokens, pad_batch

if TYPE_CHECKING:
    import torch
    from torch import nn

# How much longer a CPU takes for an operation of attention than for one of a matrix product.
ATTENTION_COST = 4.0
# How far logits may be from a padded batch's, as a share of their spread: only rounding is another.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}


@dataclass(frozen=True)
class SharedPrefix:
    """Makes batches in whichever form costs less: padded rows, or one sequence with a shared prefix."""

    pair_cost: float
    """of a pair of positions in attention, in units of a position in all other layers"""

    @classmethod
    def of(cls, model: nn.Module) -> SharedPrefix:
        """Return what suits a model's sizes."""
        config: Any = model.config
        text = config.get_text_config()
        embedded = model.get_input_embeddings().weight.numel()
        linear = max(sum(parameter.numel() for parameter in model.parameters()) - embedded, 1)
        return cls(ATTENTION_COST * 2 * text.hidden_size * text.num_hidden_layers / linear)

    def pays(self, rows: Sequence[Tokens]) -> bool:
        """Whether one sequence costs less than padded rows."""
        lengths = [len(ids) for ids, _ in rows]
        width, prefix = max(lengths), common_prefix(rows)
        together = prefix + sum(length - prefix for length in lengths)
        padded = len(rows) * (width + self.pair_cost * width**2)
        return together + self.pair_cost * together**2 < padded

    def batch(self, rows: Sequence[Tokens], pad_id: int) -> dict[str, Any]:
        """Return rows in the form that costs less; :func:`for_model` makes a model's arguments of it."""
        return joined_batch(rows) if self.pays(rows) else pad_batch(rows, pad_id)


def common_prefix(rows: Sequence[Tokens]) -> int:
    """Return how many tokens all rows begin with, up to the one that predicts the first learned token of a row."""
    limit = min(learned.index(True) - 1 if True in learned else len(ids) - 1 for ids, learned in rows)
    first = rows[0][0]
    for at in range(limit):
        if any(ids[at] != first[at] for ids, _ in rows):
            return at
    return max(limit, 0)


def joined_batch(rows: Sequence[Tokens]) -> dict[str, Any]:
    """Return rows as one sequence of tensors, each of shape (1, positions) where nothing else is said.

    ``labels`` and ``shift_labels``, of shape (1, learned tokens), are the learned tokens, row by row, and
    ``logits_to_keep``, of shape (learned tokens,), the positions that predict them. ``visible``, of shape (1, 1,
    positions, positions), says which positions each one sees; ``attention_mask``, of shape (1, real tokens of all
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
    owners, labels = torch.tensor(owner), torch.tensor([targets])
    own = (owners[:, None] == owners[None, :]) | (owners[None, :] == 0)
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "visible": own.tril()[None, None],
        "attention_mask": torch.ones(1, sum(len(row) for row, _ in rows), dtype=torch.long),
        "labels": labels,
        "shift_labels": labels,
        "logits_to_keep": torch.tensor(predicting),
    }


def for_model(batch: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return what a model is called with: of joined rows with a mask in its own precision."""
    import torch

    if "visible" not in batch:
        return batch
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    hidden = torch.zeros(batch["visible"].shape, dtype=dtype, device=batch["visible"].device)
    hidden.masked_fill_(~batch["visible"], torch.finfo(dtype).min)
    arguments = {name: value for name, value in batch.items() if name != "visible"}
    return {**arguments, "attention_mask": hidden, "use_cache": False}


def why_not(model: nn.Module, rows: Sequence[Tokens], pad_id: int, quantization: str) -> str | None:
    """Return why a model cannot have its rows joined; None where its answers are the same, but for rounding.

    Args:
        model: in whatever state.
        rows: some that it is to be trained or measured on.
        pad_id: of the tokenizer.
        quantization: of the base.
    """
    import torch

    if quantization == "int8":
        return "an int8 layer chooses by the whole batch which columns it rounds"
    config: Any = model.config
    if getattr(config.get_text_config(), "output_router_logits", False):
        return "its router's loss is one of the whole batch"
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            padded = _learned_logits(model, pad_batch(rows, pad_id))
            joined = _learned_logits(model, joined_batch(rows))
            whole, continued = _last_logits(model, rows[0][0])
    except Exception:  # an architecture that takes no such mask, or another cache, may raise anything
        return "its architecture takes no mask of its own for each position, or no cache that is filled beforehand"
    finally:
        model.train(training)
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    gap = max(
        ((one - other).abs().mean() / other.std()).item() for one, other in ((joined, padded), (continued, whole))
    )
    if not gap <= TOLERANCE.get(dtype, 0.0):
        return f"its logits would differ by {gap:.2g} of their spread"
    return None


def drops_out(model: nn.Module) -> bool:
    """Whether a model draws random numbers while it is trained, which fall otherwise on joined rows."""
    from torch.nn.modules.dropout import _DropoutNd

    config: Any = model.config
    text = config.get_text_config()
    of_attention = any(
        getattr(text, name, 0.0) for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
    )
    return bool(of_attention) or any(isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules())


def learned_logits(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits that predict learned tokens, (learned tokens, vocabulary), and these tokens, row by row."""
    if "visible" in batch:
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


def _learned_logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    where = next(model.parameters()).device
    batch = {name: value.to(where) if hasattr(value, "to") else value for name, value in batch.items()}
    answered = model(**{name: value for name, value in for_model(batch, model).items() if not name.endswith("labels")})
    return learned_logits(answered.logits, batch)[0].float()
