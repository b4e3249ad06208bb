"""The quantization contract: how the base model's weights are stored in fewer bits, and turned back again.

This module does not import torch, and a plugin module must not either at its top. A complete quantization::

    from adapterzoo import Quantization, hookimpl


    class EightBits(Quantization):
        name = "eight-bits"
        summary = "what it does, in one line"
        bits = 8
        bytes_per_parameter = 1.01
        packages = ("library",)

        def config(self, load):
            from transformers import SomeConfig

            return SomeConfig(modules_to_not_convert=load.skip)

        def dequantize(self, model, dtype):
            return model.dequantize().to(dtype)


    @hookimpl
    def adapterzoo_quantizations():
        return [EightBits()]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from adapterzoo.errors import AdapterzooError

if TYPE_CHECKING:
    import torch
    from torch import nn

NONE = "none"
"""name of the quantization that leaves the weights as they are"""


class Reason(NamedTuple):
    """The reason for which a quantization cannot be used, and a hint for the user."""

    what: str
    """end of a sentence about it"""
    hint: str = ""
    """what to do about it, as a sentence"""


@dataclass(frozen=True)
class LoadSettings:
    """The settings with which a quantization loads a base model."""

    dtype: torch.dtype
    """dtype of the computation, and of all weights that are not quantized"""
    double: bool = True
    """whether the constants of the quantization are quantized too, if it can do that"""
    skip: Sequence[str] | None = None
    """names of modules that are not quantized; None for the output head alone"""


class Code(NamedTuple):
    """Python code by which a reader of a card loads a base model with a quantization."""

    expression: str
    """the argument ``quantization_config`` of ``from_pretrained``"""
    from_transformers: str = ""
    """name that the expression needs from transformers"""
    imports: Sequence[str] = ()
    """further lines that the expression needs"""


class Quantization:
    """A quantization of the base model: how its weights are stored."""

    name: ClassVar[str]
    """name in recipes, in lower-case letters"""
    summary: ClassVar[str]
    """how it stores weights, in one line"""
    bits: ClassVar[float]
    """number of bits that store a weight; what is kept beside the weights is not counted"""
    bytes_per_parameter: ClassVar[float | None] = None
    """bytes that a weight takes with all that is kept beside it; None for as many as the recipe's dtype has"""
    packages: ClassVar[Sequence[str]] = ()
    """modules that have to be installed"""
    extra: ClassVar[str] = ""
    """extra of adapterzoo that installs them; without one, the modules have the names of their packages"""
    same_layers: ClassVar[str | None] = None
    """name of a quantization with the same layers: a method that trains on that one trains on this one too"""
    only_checkpoints: ClassVar[bool] = False
    """whether it is only for models that come quantized, so that no recipe can ask for it"""
    batch_dependent: ClassVar[bool] = False
    """whether an answer depends on the other rows of its batch, because what goes into a layer is rounded by all"""
    rounded_inputs: ClassVar[float] = 0.0
    """how far rounding what goes into layers moves the logits, on average, as a share of their standard deviation"""

    def why_not_here(self) -> Reason | None:
        """Return why it cannot be used here; None if it can. By default, its packages have to be installed.

        It is called before any weight is loaded, and must not import large libraries unless ``packages`` are there.
        """
        missing = [package for package in self.packages if find_spec(package) is None]
        if not missing:
            return None
        install = f"'adapterzoo[{self.extra}]'" if self.extra else " ".join(missing)
        return Reason(f"needs {', '.join(missing)}, which is not installed.", f"Try: pip install {install}")

    def config(self, load: LoadSettings) -> Any:
        """Return the configuration by which transformers quantizes a model while it loads it; None if it does not."""
        return None

    def checkpoint_config(self, saved: Mapping[str, Any], load: LoadSettings) -> Any:
        """Return the configuration by which transformers loads a model that comes quantized; None for the model's own.

        Args:
            saved: the value of ``quantization_config`` in its config.json.
            load: how it is loaded.
        """
        return None

    def while_loading(self) -> AbstractContextManager[None]:
        """Return what holds while transformers loads a model and quantizes it; by default, nothing special."""
        return nullcontext()

    def quantize(self, model: nn.Module, load: LoadSettings) -> None:
        """Quantize a loaded model with ordinary layers in place, if transformers does not do it."""

    def recognises(self, saved: Mapping[str, Any]) -> bool:
        """Tell whether a model comes with this quantization.

        Args:
            saved: the value of ``quantization_config`` in its config.json.
        """
        return False

    def finish(self, model: nn.Module) -> None:
        """Bring the layers of this quantization into their final state, so that no forward pass changes them.

        It is called for every model, quantized or not, and must leave layers of other kinds alone.
        """

    def is_layer(self, module: nn.Module) -> bool:
        """Tell whether a module is a linear layer of this quantization that is no subclass of torch's linear layer.

        It must have ``in_features``, ``out_features`` and ``bias``, as that one has.
        """
        return False

    def hidden_parameters(self, module: nn.Module) -> int:
        """Return how many more parameters a layer has than its tensors have elements; 0 for layers of other kinds."""
        return 0

    def dequantize(self, model: Any, dtype: torch.dtype) -> nn.Module:
        """Return a quantized model with ordinary layers, whose weights have the values of the quantized ones.

        Args:
            model: the model, which may be changed.
            dtype: dtype of the weights.

        Raises:
            AdapterzooError: it cannot be undone.
        """
        raise AdapterzooError(f"the quantization {self.name} cannot be undone")

    def code(self, dtype: str, double: bool) -> Code | None:
        """Return code that loads a base model with this quantization; None if there is no short one.

        Args:
            dtype: dtype of the computation, as an expression.
            double: as in :class:`LoadSettings`.
        """
        return None


def attributes() -> dict[str, Any]:
    """Return the attributes by which a quantization describes itself: name -> type, in the order of the contract."""
    from typing import get_args, get_origin, get_type_hints

    hints = get_type_hints(Quantization)
    return {name: get_args(hint)[0] for name, hint in hints.items() if get_origin(hint) is ClassVar}
