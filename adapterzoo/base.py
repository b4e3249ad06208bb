"""The frozen base model: loaded once per quantization, lent to one cell after the other, always the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapterzoo.loading import load_weights

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe import ModelSection


class Base:
    """A loaded base model that no cell can change.

    Every cell wraps the same modules in place. Afterwards each module gets back exactly the attributes it had:
    submodules, parameters, hooks, a replaced ``forward``, the training flag. So the way back is the same for any
    method, PEFT's or not, and none has to know how to take itself off.
    """

    def __init__(self, model: nn.Module, quantization: str, reload: Callable[[], nn.Module]) -> None:
        self.quantization = quantization
        self._reload = reload
        self._keep(model)

    @property
    def model(self) -> Any:
        """The model, to be looked at; :meth:`lend` is for what may change it."""
        if self._model is None:
            self._keep(self._reload())
        return self._model

    def _keep(self, model: nn.Module) -> None:
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._model: nn.Module | None = model
        self._state = [(module, _snapshot(module)) for module in model.modules()]
        self._config = copy.deepcopy(model.config.__dict__)
        self._checksums = _checksums(model)

    @contextmanager
    def lend(self) -> Iterator[nn.Module]:
        """The model, to be wrapped and trained; on leaving it is what it was, whatever happened inside."""
        try:
            yield self.model
        finally:
            self.restore()

    def restore(self) -> None:
        """Undo what a cell did. Weights that were changed are loaded again."""
        for module, state in self._state:
            module.__dict__.clear()
            module.__dict__.update(_snapshot(state))
        config = self.model.config.__dict__
        config.clear()
        config.update(copy.deepcopy(self._config))
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        if _checksums(self.model) != self._checksums:
            self.renew()

    def renew(self) -> None:
        """Have the weights loaded again: after a merge, which also changes what quantized layers keep beside them.

        When they are next needed, not now: whoever changed them still holds them, and there may be no room for two.
        """
        self._model, self._state = None, []

    @property
    def parameters(self) -> int:
        """How many parameters the base has; a 4-bit layer holds two in a byte."""
        stored: int = sum(parameter.numel() for parameter in self.model.parameters())
        return stored + sum(_packed(module) for module in self.model.modules())


def load(model: ModelSection, location: str, quantization: str, max_length: int, vocabulary: int = 0) -> Base:
    """Load the base model with one quantization.

    Args:
        vocabulary: how many embeddings the tokenizer needs; the model gets more where it has fewer.

    Raises:
        UserError: transformers cannot load it.
    """

    def fresh() -> nn.Module:
        return load_weights(model, location, quantization, max_length, vocabulary)

    return Base(fresh(), quantization, fresh)


def _snapshot(module: nn.Module | dict[str, Any]) -> dict[str, Any]:
    """A module's attributes, with the dictionaries among them (children, parameters, hooks) copied."""
    attributes = module if isinstance(module, dict) else module.__dict__
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


def _checksums(model: nn.Module) -> dict[str, int]:
    """A number for each tensor that changes when its bits do; computed where the tensor is."""
    import torch

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sums = {}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            continue
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        sums[name] = int(tensor.detach().contiguous().view(kind).sum(dtype=torch.int64))
    return sums


def _packed(module: nn.Module) -> int:
    """How many more parameters a layer stands for than its weight has elements."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return 0 if state is None else state.shape.numel() - module.weight.numel()
