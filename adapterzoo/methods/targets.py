"""Find the linear layers of a model, and those of them that target_modules names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import Problem, did_you_mean
from adapterzoo.machine.limits import TooLongError, stopped_after
from adapterzoo.quantizations.registry import quantizations

if TYPE_CHECKING:
    from torch import nn

MAX_PATTERN_SECONDS = 2
MAMBA_KERNEL_WEIGHTS = ("out_proj", "x_proj", "dt_proj")


def features(linear: Any) -> tuple[int, int]:
    """Return the numbers of input and output features of a linear layer, quantized or not."""
    return (linear.in_features, linear.out_features) if is_linear(linear) else (linear.nx, linear.nf)


def is_linear(layer: nn.Module) -> bool:
    """Tell whether a layer is torch's linear layer, or a quantized one, and not GPT-2's ``Conv1D``.

    ``Conv1D`` keeps its weight transposed.
    """
    return hasattr(layer, "in_features")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of a model by their full names, without the output head."""
    bypassed = {id(layer) for layer in _bypassed(model)}
    return {name: layer for name, layer in _all_linear(model).items() if id(layer) not in bypassed}


def all_linear_is_too_much(model: nn.Module) -> bool:
    """Tell whether a model has linear layers that no method can adapt, which PEFT's all-linear includes."""
    return len(linear_layers(model)) < len(_all_linear(model))


def _all_linear(model: nn.Module) -> dict[str, nn.Module]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = [*quantizations().values()]

    def is_layer(module: nn.Module) -> bool:
        return isinstance(module, (nn.Linear, Conv1D)) or any(kind.is_layer(module) for kind in kinds)

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name: module
        for name, module in model.named_modules()
        if is_layer(module) and module is not head and name.split(".")[0] not in new_head(model)
    }


def _bypassed(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the linear layers around which no adapter works.

    The mixers of Mamba give some weights to a fused kernel, so that a layer around them is not called. The routers of
    some mixtures of experts are linear layers that return several tensors.
    """
    from torch import nn

    for module in model.modules():
        if hasattr(module, "A_log"):
            yield from (getattr(module, name) for name in MAMBA_KERNEL_WEIGHTS if hasattr(module, name))
        if isinstance(module, nn.Linear) and "Router" in type(module).__name__:
            yield module


def new_head(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that the task has put on a base model, and that are trained in any case."""
    return getattr(model, "new_head", ())


def targeted(model: nn.Module, targets: str | list[str]) -> dict[str, nn.Module]:
    """Return the linear layers that ``target_modules`` names, read as PEFT reads it.

    A list holds names or the ends of names; a text is a regular expression for the whole name, or ``all-linear``.

    Raises:
        ValueError: the expression takes too long.
    """
    layers = linear_layers(model)
    if targets == "all-linear":
        return layers
    if isinstance(targets, str):
        return {name: layers[name] for name in _matches(targets, layers)}
    ends = tuple(f".{target}" for target in targets)
    return {name: layer for name, layer in layers.items() if name in targets or name.endswith(ends)}


def _matches(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a regular expression matches as a whole; none if it is no regular expression.

    Raises:
        ValueError: it takes more than MAX_PATTERN_SECONDS.
    """
    try:
        with stopped_after(MAX_PATTERN_SECONDS):
            return [name for name in names if re.fullmatch(pattern, name)]
    except (re.error, OverflowError, RecursionError):
        return []
    except TooLongError:
        what = f"tries too many ways to divide a name: it was stopped after {MAX_PATTERN_SECONDS} seconds"
        raise ValueError(f"the pattern '{pattern}' {what}") from None


def pooler_problems(skeleton: nn.Module, targets: str | list[str], name: str) -> list[Problem]:
    """Return a problem if the targets include a pooler, for a method whose layers must see every token.

    Args:
        skeleton: the base model without weights.
        targets: the option ``target_modules``.
        name: name of the method.
    """
    try:
        pooled = [layer for layer in targeted(skeleton, targets) if "pooler" in layer.split(".")]
    except ValueError:  # target_problems reports it
        return []
    if not pooled:
        return []
    what = f"{name} needs layers that see every token, and '{pooled[0]}' sees one token of each text."
    return [Problem("target_modules", what, "Name the layers to adapt, without it.")]


def pattern_problems(skeleton: nn.Module, targets: str | list[str], name: str) -> list[Problem]:
    """Return a problem if a pattern matches more than linear layers, for a method that adapts these alone.

    PEFT's methods may adapt such a module, like the output head.

    Args:
        skeleton: the base model without weights.
        targets: the option ``target_modules``.
        name: name of the method.
    """
    if targets == "all-linear" or not isinstance(targets, str):
        return []
    own = {place: next(module.parameters(recurse=False), None) for place, module in skeleton.named_modules()}
    linear = linear_layers(skeleton)
    try:
        others = [place for place in _matches(targets, own) if own[place] is not None and place not in linear]
    except ValueError:  # target_problems reports it
        return []
    if not others:
        return []
    what = f"'{targets}' also matches {others[0]}, which {name} does not adapt: it adapts linear layers but the head."
    return [Problem("target_modules", what, "Give a pattern without it.")]


def target_problems(skeleton: nn.Module, targets: str | list[str] | None) -> list[Problem]:
    """Return a problem for each name in ``target_modules`` that matches no layer."""
    if targets is None or targets == "all-linear":
        return []
    last_names = {name.rpartition(".")[2] for name in linear_layers(skeleton)}
    if not targets:
        return [Problem("target_modules", "is empty.", f"Choose from: {', '.join(sorted(last_names))}.")]
    if isinstance(targets, str):
        try:
            _matches(targets, [name for name, _ in skeleton.named_modules()])  # PEFT compares the names of all modules
        except ValueError as error:
            return [Problem("target_modules", f"{error}.", "Give a simpler pattern, or a list of names.")]
    if isinstance(targets, str) and not targeted(skeleton, targets):
        hint = did_you_mean(targets, {"all-linear", *last_names})
        return [Problem("target_modules", f"'{targets}' does not match the whole name of any layer.", hint)]
    return [
        Problem("target_modules", f"'{target}' matches no layer.", did_you_mean(target, last_names))
        for target in ([] if isinstance(targets, str) else targets)
        if not targeted(skeleton, [target])
    ]
