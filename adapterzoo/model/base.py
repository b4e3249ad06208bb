"""The frozen base model: loaded once per quantization, lent to one cell after the other, always the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError
from adapterzoo.model.base_state import BaseState, tensor_digest
from adapterzoo.model.loading import load_weights

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import ModelSection


class Base:
    """A loaded base model that no cell can change.

    Every cell wraps the same modules in place. Afterwards each module gets back exactly the attributes it had:
    submodules, parameters, hooks, a replaced ``forward``, the training flag. So the way back is the same for any
    method, PEFT's or not, and none has to know how to take itself off.
    """

    def __init__(self, model: nn.Module, quantization: str, reload: Callable[[], nn.Module]) -> None:
        self.quantization = quantization
        self._reload = reload
        self._model: nn.Module | None = None
        self._state: BaseState | None = None
        self._digest: str | None = None
        self._keep(model)

    @property
    def model(self) -> Any:
        """The model, to be looked at; :meth:`borrow` is for what may change it."""
        if self._model is None:
            self._keep(self._reload())
        return self._model

    def _keep(self, model: nn.Module) -> None:
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        state = BaseState(model)
        if self._digest is not None and state.digest != self._digest:
            raise AdapterzooError("the base loaded again is not what it was: its files were changed during the run")
        self._model, self._state, self._digest = model, state, state.digest

    @contextmanager
    def borrow(self) -> Iterator[nn.Module]:
        """The model, to be wrapped and trained; on leaving it is what it was, whatever happened inside."""
        try:
            yield self.model
        finally:
            self.restore()

    def restore(self) -> None:
        """Undo what a cell did. Where tensors hold something else now, the base is loaded again."""
        if self._model is None or self._state is None:
            return
        self._state.put_back()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        if tensor_digest(self._model) != self._digest:
            self.invalidate()

    def invalidate(self) -> None:
        """Have the weights loaded again: after a merge, which also changes what quantized layers keep beside them.

        When they are next needed, not now: whoever changed them still holds them, and there may be no room for two.
        """
        self._model = self._state = None

    @property
    def bytes(self) -> int:
        """Return the size of all parameters in bytes."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

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


def _packed(module: nn.Module) -> int:
    """How many more parameters a layer stands for than its weight has elements."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return 0 if state is None else state.shape.numel() - module.weight.numel()
