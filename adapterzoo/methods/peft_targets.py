"""Make PEFT adapt the layers that a method's options name, and no others, and write them so that plain PEFT agrees.

In a mixture of experts PEFT takes ``gate_proj``, ``up_proj``, ``down_proj`` and all-linear for what had these names in
transformers 4. One family of methods, and no other, would then adapt the fused experts, with twice the rank, and the
router, but not the shared experts, which do have these names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapterzoo.methods.targets import all_linear_is_too_much, is_linear, linear_layers

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

WEIGHT = ".weight"


@contextmanager
def targets_as_given() -> Iterator[None]:
    """Keep PEFT from adapting other weights than the configuration names."""
    from peft.utils import transformers_weight_conversion

    convert = transformers_weight_conversion.convert_peft_config_for_transformers
    transformers_weight_conversion.convert_peft_config_for_transformers = lambda *args, **kwargs: None
    try:
        yield
    finally:
        transformers_weight_conversion.convert_peft_config_for_transformers = convert


def name_linear_layers(config: PeftConfig, model: nn.Module) -> None:
    """Name the layers that all-linear means here, if PEFT would adapt others too, or does not know their class."""
    from torch import nn

    if getattr(config, "target_modules", None) != "all-linear":
        return
    layers = linear_layers(model)
    # GPT-2's Conv1D, which PEFT knows, has no in_features.
    unlike = any(is_linear(layer) and not isinstance(layer, nn.Linear) for layer in layers.values())
    if unlike or all_linear_is_too_much(model):
        config.target_modules = [*layers]


def as_plain_peft_reads(saved: dict[str, Any], model_type: str | None, targets: Iterable[str]) -> dict[str, Any]:
    """Return a saved configuration with other words for the layers that plain PEFT would take for fused experts.

    As parameters they are what they are: the same factors, under the same names, have the same effect.

    Args:
        saved: the configuration.
        model_type: the type of the base model in its configuration.
        targets: full names of the adapted layers.
    """
    targets = set(targets)
    taken = {name for name in targets if name.rpartition(".")[2] in _taken_for_experts(saved, model_type)}
    if not taken:
        return saved
    parameters = {*(saved.get("target_parameters") or []), *(name + WEIGHT for name in taken)}
    return {**saved, "target_modules": sorted(targets - taken), "target_parameters": sorted(parameters)}


def as_trained(config: Any, model: nn.Module) -> Any:
    """Return a loaded configuration with the words of the training: the reverse of :func:`as_plain_peft_reads`."""
    parameters, linear = getattr(config, "target_parameters", None) or [], linear_layers(model)
    layers = {name.removesuffix(WEIGHT) for name in parameters if name.removesuffix(WEIGHT) in linear}
    if layers and not isinstance(config.target_modules, str):
        config.target_modules = {*(config.target_modules or []), *layers}
        config.target_parameters = [name for name in parameters if name.removesuffix(WEIGHT) not in layers] or None
    return config


def _taken_for_experts(saved: dict[str, Any], model_type: str | None) -> set[str]:
    """Return the names of layers that plain PEFT replaces in a configuration for this type of model."""
    from peft.utils import transformers_weight_conversion as conversion

    if "target_parameters" not in saved:  # PEFT replaces names for no other type of adapter
        return set()
    kind = conversion._MODEL_TO_CONVERSION_PATTERN.get(model_type)
    return set(conversion._MOE_TARGET_MODULE_MAPPING.get(kind, {}))
