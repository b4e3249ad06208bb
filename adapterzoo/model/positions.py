"""Find out how many tokens a model can read at most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

TOKENS = "input_ids"
"""name that transformers gives to the main input of a model that reads tokens"""


def learned_positions(model: nn.Module) -> int | None:
    """Return for how many tokens a model has learned where they are; None if it computes that, as most do.

    A token behind them would be an index out of range. If an encoder and a decoder have learned them for different
    numbers of tokens, as in LED, the larger one counts.
    """
    has_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return (max if has_decoder else min)(_tables(model), default=None)


def _tables(module: nn.Module, name: str = "") -> Iterator[int]:
    """Yield for how many tokens each table of learned positions is."""
    if isinstance(module, nn.Embedding) and (name == "wpe" or "position" in name):
        # OPT, BART and RoBERTa leave the first entries of the table free.
        unused = 0 if module.padding_idx is None else module.padding_idx + 1
        yield module.num_embeddings - int(getattr(module, "offset", unused))
    for child_name, child in module.named_children():
        # A part for images or sound has positions of its own, which have nothing to do with those of tokens.
        if getattr(child, "main_input_name", TOKENS) == TOKENS:
            yield from _tables(child, child_name)


def readable(model: nn.Module, config: Any) -> int | None:
    """Return how many tokens a model can read; None if neither it nor its configuration says so."""
    limits = [getattr(config, "max_position_embeddings", None), learned_positions(model)]
    return min((limit for limit in limits if limit), default=None)
