"""Replace PEFT's layers of LoHa and LoKr while a model is wrapped.

PEFT's layers compute the whole update as a matrix, in the shape of the base's weight. On a 4-bit base that is the
shape of the packed bytes, and wrapping crashes. The layers here multiply by the factors instead: they never need the
weight's shape, and are faster too. The parameters that they train and save are exactly PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def linear_layer(tuner: Any, layer: type[nn.Module]) -> Iterator[None]:
    """Make a ``LycorisTuner`` wrap linear layers in ``layer``, and restore PEFT's own layer afterwards."""
    before = tuner.layers_mapping
    tuner.layers_mapping = {**before, nn.Linear: layer}
    try:
        yield
    finally:
        tuner.layers_mapping = before


def drop_rows(update: torch.Tensor, share: float, *, rescale: bool) -> torch.Tensor:
    """Apply PEFT's rank dropout, which zeroes rows of the weight's update, to the output features of those rows.

    It draws the same random numbers as PEFT, so that a seed gives the same result.
    """
    keep = (torch.rand(update.size(-1)) > share).to(update.device, update.dtype)
    return update * (keep / keep.mean() if rescale else keep)
