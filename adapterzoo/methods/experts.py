"""Find the fused experts of a mixture of experts, which are parameters and not linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapterzoo.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from torch import nn

ALL = "all-experts"
Wanted = Literal["all-experts"] | list[str]
"""value of the option ``target_parameters``: all fused experts, or the ends of their names"""


def fused_experts(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of fused experts by their full names; each has the shape (experts, rows, columns)."""
    return {
        f"{name}.{own}" if name else own: parameter
        for name, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn")  # the weight of a convolution has three dimensions too
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.is_floating_point()
    }


def expert_names(model: nn.Module, wanted: Wanted) -> list[str]:
    """Return the names of the fused experts that ``target_parameters`` means, as PEFT wants them."""
    if wanted != ALL:
        return list(wanted)
    return list(dict.fromkeys(_end(name) for name in fused_experts(model)))


def expert_problems(skeleton: nn.Module, wanted: Wanted, dropout: float = 0.0) -> list[Problem]:
    """Return what is wrong with ``target_parameters``.

    Args:
        skeleton: the base model without weights.
        wanted: the option.
        dropout: dropout on the adapter's input, which a fused weight does not have.
    """
    if not wanted:
        return []
    ends = list(dict.fromkeys(_end(name) for name in fused_experts(skeleton)))
    if not ends:
        return [Problem("target_parameters", "the model has no fused experts.", "Leave it out.")]
    if dropout:
        what = "is not possible for fused experts: they have no input of their own that could be dropped."
        return [Problem("lora_dropout", what, "Set it to 0, or leave target_parameters out.")]
    names = [] if wanted == ALL else wanted
    return [
        Problem("target_parameters", f"'{name}' is no fused weight.", did_you_mean(name, {ALL, *ends}))
        for name in names
        if not any(full == name or full.endswith(f".{name}") for full in fused_experts(skeleton))
    ]


def _end(name: str) -> str:
    """Return the last two parts of a name, which are the same in all layers."""
    return ".".join(name.split(".")[-2:])
