"""Quantize the weights of a model when it is loaded, and turn them back into ordinary ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import UserError, failure_reason
from adapterzoo.model.config import text_config
from adapterzoo.quantizations.contract import LoadSettings
from adapterzoo.quantizations.registry import quantizations

if TYPE_CHECKING:
    from torch import nn


def saved_quantization(config: Any) -> Mapping[str, Any] | None:
    """Return the ``quantization_config`` with which a model comes; None if its weights are ordinary ones.

    Args:
        config: the model's configuration, as transformers loads it.
    """
    for part in (config, text_config(config, decoder=True)):
        saved = getattr(part, "quantization_config", None)
        if saved is not None:
            found: Mapping[str, Any] = saved if isinstance(saved, Mapping) else saved.to_dict()
            return found
    return None


def loading_arguments(quantization: str, load: LoadSettings, saved: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments by which transformers loads a model with a quantization.

    Args:
        quantization: name of the quantization.
        load: how the model is loaded.
        saved: the ``quantization_config`` with which the model comes, if it comes quantized.
    """
    chosen = quantizations()[quantization]
    config = chosen.config(load) if saved is None else chosen.checkpoint_config(saved, load)
    return {} if config is None else {"quantization_config": config}


def finish(model: nn.Module) -> None:
    """Bring quantized layers into their final state, so that no forward pass changes them."""
    for quantization in quantizations().values():
        quantization.finish(model)


def dequantize(model: nn.Module, quantization: str, dtype: str) -> nn.Module:
    """Return a quantized model with ordinary layers, whose weights have the values of the quantized ones.

    Args:
        model: the model; it is changed.
        quantization: name of its quantization.
        dtype: name of the dtype of the weights.

    Raises:
        UserError: the quantization cannot be undone.
    """
    import torch

    try:
        plain = quantizations()[quantization].dequantize(model, getattr(torch, dtype))
        _forget_packing(plain)
        return plain
    except Exception as error:  # a quantization may be anybody's code
        what = f"the quantization {quantization} cannot be undone: {failure_reason(error)}."
        raise UserError.at("model", what, "Use the adapter on its quantized base model.") from None


def _forget_packing(model: Any) -> None:
    """Make transformers save a model as it is now, and not packed as it was in the files that it was read from.

    The steps that pack weights are in transformers.integrations, and those that belong to the architecture are not.
    """
    steps, packing = getattr(model, "_weight_conversions", None) or [], "transformers.integrations."
    kept = [step for step in steps if not any(type(part).__module__.startswith(packing) for part in _parts_of(step))]
    if len(kept) < len(steps):
        model._weight_conversions = kept


def _parts_of(step: Any) -> list[Any]:
    return [*getattr(step, "operations", ()), getattr(step, "quantization_operation", None)]
