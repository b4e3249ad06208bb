"""The module that keeps a module of the model and puts a method's own module behind it.

This file imports torch, so import it inside functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Behind(nn.Module):  # type: ignore[misc]  # mypy does not follow torch's types
    """A module of the model, ``base``, whose output goes through a method's own module, ``inserted``."""

    def __init__(self, base: nn.Module, inserted: nn.Module) -> None:
        super().__init__()
        self.base = base
        # In bfloat16 most steps of the training would round to nothing.
        self.inserted = inserted.float()

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Return the output of ``base``, with its first tensor replaced by what ``inserted`` makes of it."""
        output = self.base(*arguments, **keywords)
        if isinstance(output, tuple):
            return (self._replaced(output[0]), *output[1:])
        return self._replaced(output)

    def _replaced(self, hidden: torch.Tensor) -> torch.Tensor:
        replaced: torch.Tensor = self.inserted(hidden.float())
        return replaced.to(hidden.dtype)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of ``base``, because models read some, such as a layer's ``attention_type``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":  # while a copy is made, there is no base yet
                raise
            return getattr(self.base, name)
