"""The frozen base model: it is loaded once for each quantization; every cell uses it and leaves it unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError
from adapterzoo.machine import ranks
from adapterzoo.machine.memory import spare_imported_modules
from adapterzoo.model.base_state import BaseState, stored_bytes, tensor_digest
from adapterzoo.model.config import load_config
from adapterzoo.model.dtype import with_fast_dtype
from adapterzoo.model.loading import load_weights
from adapterzoo.model.placing import Places, choose_places
from adapterzoo.model.quantization import dequantize
from adapterzoo.quantizations.contract import NONE
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.tasks.examples import CAUSAL_FORM, ModelForm

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.divided import Divided
    from adapterzoo.recipe.schema import ModelSection


OF_BASE = "is_of_base_model"
"""attribute of the parameters of a base model, which those of an adapter do not have"""


class Base:
    """A loaded base model that is the same for every cell.

    Every cell wraps the same modules in place. Afterwards each module gets back exactly the attributes that it had:
    submodules, parameters, hooks, a replaced ``forward``, the training flag. This works for any method, from PEFT or
    not, and no method has to know how to unwrap the model.
    """

    def __init__(
        self, model: nn.Module, quantization: str, reload: Callable[[], nn.Module], divided: Divided | None = None
    ) -> None:
        """Freeze a model and remember its state.

        Args:
            model: the model.
            quantization: name of its quantization.
            reload: loads it again.
            divided: divides its weights among the ranks, and has done so with those that are parameters.
        """
        self.quantization = quantization
        self.divided = divided
        self._reload = reload
        self._model: nn.Module | None = None
        self._state: BaseState | None = None
        self._digest: str | None = None
        self._set_model(model)
        self.bytes = sum(stored_bytes(parameter) for parameter in model.parameters() if not parameter.is_meta)
        """size of all parameters that are in memory, in bytes"""
        elements = sum(parameter.numel() for parameter in model.parameters())
        self.replaced: list[str] = []
        """names of functions of classes that were replaced while the model was lent, and are put right"""
        self.was_changed = False
        """whether the last use changed the content of a tensor, so that the model has to be loaded again"""
        self.parameters = elements + sum(quantizations()[quantization].hidden_parameters(m) for m in model.modules())
        """number of parameters; a 4-bit layer stores two of them in one element"""

    def get_model(self) -> Any:
        """Return the model for reading only, loaded again if it was forgotten; to change it, call :meth:`borrow`.

        Raises:
            AdapterzooError: its weights are divided among ranks, which have to use them together.
        """
        if self.divided is not None:
            raise AdapterzooError("a divided base model can only be borrowed")
        return self._loaded()

    def _loaded(self) -> nn.Module:
        """Return the model, loaded again if it was forgotten."""
        if self._model is None:
            with nullcontext() if self.divided is None else self.divided.loading():
                loaded = self._reload()
            self._set_model(loaded)
        assert self._model is not None
        return self._model

    def divide(self) -> None:
        """Divide the weights among the ranks from now on; do nothing if they are divided, or this is the only rank."""
        if self.divided is None and ranks.count() > 1:
            from adapterzoo.model.divided import Divided

            model, self.divided, self._digest = self.get_model(), Divided(), None
            self._set_model(model)

    def _in_use(self) -> AbstractContextManager[None]:
        """Return what a model that is divided needs while it is used."""
        return nullcontext() if self.divided is None else self.divided.used()

    def _set_model(self, model: nn.Module) -> None:
        """Freeze a freshly loaded model and remember its state."""
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            setattr(parameter, OF_BASE, True)
        with self._in_use():
            if self.divided is not None:
                self.divided.take(model)
            state = BaseState(model)
        if self._digest is not None and state.digest != self._digest:
            raise AdapterzooError("the base model was loaded again and differs: its files were changed during the run")
        self._model, self._state, self._digest = model, state, state.digest

    @contextmanager
    def borrow(self) -> Iterator[nn.Module]:
        """Give the model for wrapping and training, and restore it afterwards, also after an error."""
        from adapterzoo.model.offloaded import read_again_for_backward

        # The part of one rank may be unchanged where another's has changed. They have to load it together.
        if self.divided is not None and any(ranks.totals([self._model is None])):
            self.invalidate()
        try:
            model = self._loaded()
            with read_again_for_backward(model), self._in_use():
                yield model
        finally:
            self.restore()

    def restore(self) -> None:
        """Undo what a cell did to the model. If a tensor's content changed, the model will be loaded again."""
        if self._model is None or self._state is None:
            return
        self.replaced += self._state.restore()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        with self._in_use():
            if self.divided is not None:
                self.divided.rest()
            self.was_changed = tensor_digest(self._model) != self._digest
        if self.was_changed:
            self.invalidate()

    def invalidate(self) -> None:
        """Forget the model, so that it is loaded again at its next use.

        This is needed after a merge, which also changes data that quantized layers keep beside their weights. The model
        is not loaded at once, because the caller still holds the old one and memory may not be enough for both.
        """
        self._model = self._state = None


def load(
    model: ModelSection,
    location: str,
    quantization: str,
    max_length: int,
    form: ModelForm = CAUSAL_FORM,
    *,
    dequantized: bool = False,
    name: str | None = None,
    places: Places | None = None,
    divided: bool = False,
) -> Base:
    """Load the base model with one quantization.

    Args:
        model: the recipe's model section.
        location: what :func:`adapterzoo.model.files.locate` returned.
        quantization: name of the quantization.
        max_length: number of tokens of the longest row; the choice of the attention implementation depends on it.
        form: the form in which the task needs the model.
        dequantized: whether to turn quantized weights back into ordinary ones.
        name: the name of the model in saved adapters; by default its location.
        places: where its parts are kept; by default where ``model.device_map`` puts them.
        divided: whether to divide the weights among the ranks, if there are several, as soon as each is read.

    Raises:
        UserError: transformers cannot load the model.
    """
    spare_imported_modules()
    model = with_fast_dtype(model)
    if places is None and model.device_map is not None and quantization == NONE:
        places = choose_places(model, location, load_config(model, location), form)  # the same for a model loaded again

    def load_model() -> nn.Module:
        loaded = load_weights(model, location, quantization, max_length, form, places)
        if name is not None:
            loaded.name_or_path = name
        return dequantize(loaded, quantization, model.dtype) if dequantized else loaded

    chosen = NONE if dequantized else quantization
    if not divided or ranks.count() == 1:
        return Base(load_model(), chosen, load_model)

    from adapterzoo.model.divided import Divided

    division = Divided()
    with division.loading():
        loaded = load_model()
    return Base(loaded, chosen, load_model, division)


@contextmanager
def named(model: nn.Module, name: str) -> Iterator[None]:
    """Let the configuration of a model, which saved adapters name, say in a ``with`` block where it was loaded from."""
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_name_or_path", None)
    if not isinstance(before, str):
        yield
        return
    config._name_or_path = name
    try:
        yield
    finally:
        config._name_or_path = before
