"""What LoHa and LoKr share: putting a mended layer into PEFT while a model is wrapped.

PEFT's layers form the whole update as a matrix, in the shape of the base's weight. Over a 4-bit base that shape
is the one of the packed bytes, and wrapping crashes. The mended layers multiply by the factors instead: they
never ask for the weight's shape, and are faster too. What they train and save is PEFT's to the letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def linear_layer(tuner: Any, layer: type[nn.Module]) -> Iterator[None]:
    """Within, the tuner (a ``LycorisTuner``) wraps linear layers in ``layer``; plain PEFT gets its own back."""
    before = tuner.layers_mapping
    tuner.layers_mapping = {**before, nn.Linear: layer}
    try:
        yield
    finally:
        tuner.layers_mapping = before


def drop_rows(update: torch.Tensor, share: float, *, rescale: bool) -> torch.Tensor:
    """Rank dropout: PEFT zeroes rows of the weight's update, which are features of its output.

    Draws exactly what PEFT draws, so that a seed means the same here and there.
    """
    keep = (torch.rand(update.size(-1)) > share).to(update.device, update.dtype)
    return update * (keep / keep.mean() if rescale else keep)
