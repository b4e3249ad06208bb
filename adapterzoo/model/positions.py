"""Find out how many tokens a model can read at most."""

from __future__ import annotations

from typing import Any

from torch import nn


def learned_positions(model: nn.Module) -> int | None:
    """Return for how many tokens a model has learned where they are; None if it computes that, as most do.

    A token behind them would be an index out of range.
    """
    found = []
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and (last == "wpe" or "position" in last):
            # OPT, BART and RoBERTa leave the first entries of the table free.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - int(getattr(module, "offset", unused)))
    return min(found, default=None)


def readable(model: nn.Module, config: Any) -> int | None:
    """Return how many tokens a model can read; None if neither it nor its configuration says so."""
    limits = [getattr(config, "max_position_embeddings", None), learned_positions(model)]
    return min((limit for limit in limits if limit), default=None)
