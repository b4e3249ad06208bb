"""Try a quantization of the base model by itself, and with methods, on the tiny models of the kit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.capabilities import trains_on
from adapterzoo.conformance.measure import logits
from adapterzoo.conformance.models import ARCHITECTURES, model_folder, rows, tiny_base
from adapterzoo.errors import failure_reason
from adapterzoo.machine.memory import spare_imported_modules
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.methods.registry import registry
from adapterzoo.quantizations.contract import NONE, Quantization
from adapterzoo.quantizations.registry import quantizations

if TYPE_CHECKING:
    from torch import Tensor

    from adapterzoo.model.base import Base

# Accept that quantization moves the logits by less than this share of their standard deviation, on average.
MAX_CHANGE = 1.0
# Accept that undoing a quantization moves them by this share, because the dtype rounds.
MAX_UNDONE_CHANGE = 1e-3
# Accept that a weight takes this many times the bytes that the quantization declares.
MAX_SIZE_RATIO = 1.15
BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class Look:
    """The errors and sizes of a quantization on one tiny model, and why it is not sound."""

    architecture: str
    problems: list[str]
    change: float = 0.0
    """how far the quantization moves the logits, on average, as a share of their standard deviation"""
    undone_change: float = 0.0
    """how far undoing it moves them"""
    bytes_per_parameter: float = 0.0
    """bytes that a weight of the quantized layers takes"""


def look_at(name: str) -> list[Look]:
    """Return what is seen of a quantization on each tiny model: whether it is sound, and its errors and sizes."""
    spare_imported_modules()
    with quiet_libraries():
        return [_look(architecture, quantizations()[name]) for architecture in ARCHITECTURES]


def try_method_on(method: str, quantization: str) -> bool | str:
    """Return True if a method trains on a quantization, is saved and is loaded; else why not."""
    return trains_on(registry()[method], quantization)


def _look(architecture: str, quantization: Quantization) -> Look:
    try:
        base = tiny_base(architecture, quantization.name)
        base.invalidate()
        base.get_model()  # raises an error if it differs from the one before
    except Exception as error:  # a quantization may be anybody's code
        return Look(architecture, [f"it cannot be loaded: {failure_reason(error)}"])
    plain, problems = tiny_base(architecture, NONE), list[str]()
    with base.borrow() as model:
        quantized = logits(model, rows())
    if base.was_changed:
        problems.append("a forward pass changes what its layers keep: see finish()")
    taken = _bytes_per_parameter(*(tiny_base(architecture, name, "bfloat16") for name in (quantization.name, NONE)))
    change = _difference(quantized, logits(plain.get_model(), rows()))
    if not change < MAX_CHANGE:
        problems.append(f"it moves the logits by {change:.2g} of their standard deviation")
    problems += _size_problems(quantization, taken)
    try:
        undone = _difference(_undone(architecture, quantization.name), quantized)
        allowed = max(MAX_UNDONE_CHANGE, quantization.rounded_inputs)
        if not undone <= allowed:
            problems.append(f"undoing it moves the logits by {undone:.2g} (allowed: {allowed:.2g}): see dequantize()")
    except Exception as error:  # as above
        return Look(architecture, [*problems, f"it cannot be undone: {failure_reason(error)}"], change, 0.0, taken)
    return Look(architecture, problems, change, undone, taken)


def _undone(architecture: str, name: str) -> Tensor:
    """Return the logits of a model whose quantization was undone."""
    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    folder = str(model_folder(architecture))
    section = ModelSection(name=folder, quantization=name, dtype="float32")
    return logits(base.load(section, folder, name, 64, dequantized=True).get_model(), rows())


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().mean() / second.std())


def _bytes_per_parameter(base: Base, plain: Base) -> float:
    """Return the bytes that a weight of the quantized layers takes, by comparing with the plain model in bfloat16."""
    from adapterzoo.methods.targets import linear_layers
    from adapterzoo.model.base_state import held_bytes

    layers: list[Any] = [*linear_layers(plain.get_model()).values()]
    weights = sum(int(layer.weight.numel()) for layer in layers)
    return (held_bytes(base.get_model()) - held_bytes(plain.get_model())) / weights + BFLOAT16_BYTES


def _size_problems(quantization: Quantization, taken: float) -> Iterator[str]:
    declared = quantization.bytes_per_parameter
    if declared is not None and not taken <= MAX_SIZE_RATIO * declared:
        yield f"a weight takes {taken:.2f} bytes, and it declares {declared:.2f}"
