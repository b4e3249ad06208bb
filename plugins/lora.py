"""LoRA: the update of each linear layer is the product of two matrices of low rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapterzoo import Context, LinearOptions, PeftMethod, Problem, expert_names, expert_problems, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class LoraOptions(LinearOptions):
    """The options of LoRA."""

    r: int = Field(8, ge=1, description="rank of the update")
    lora_alpha: float = Field(32.0, gt=0, description="the update is scaled by lora_alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")


class ExpertOptions(LoraOptions):
    """The options of LoRA that can adapt the fused experts of a mixture, too."""

    target_parameters: Literal["all-experts"] | list[str] = Field(
        [], description="'all-experts' (the fused experts of a mixture), or ends of their names; by default none"
    )


class Lora(PeftMethod[LoraOptions]):
    """Low-rank adaptation."""

    name = "lora"
    summary = "low-rank update of every linear layer"
    paper = "https://arxiv.org/abs/2106.09685"
    group = "low-rank"
    options: type[LoraOptions] = ExpertOptions
    learning_rate = 3e-4
    learning_rate_source = (
        "PEFT's method comparison, all linear layers (lora/llama-3.2-3B-rank16-all-linear-lr3e-4); "
        "alpha 32 from 'LoRA Without Regret'"
    )
    mergeable_into = ("none", "int8")
    size_option = "r"
    variant: ClassVar[dict[str, Any]] = {}
    """settings of ``LoraConfig`` by which a variant, like DoRA, differs from LoRA"""
    token_wise = True

    def peft_config(self, model: nn.Module, options: LoraOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import LoraConfig

        settings = options.model_dump(include=set(LoraOptions.model_fields))
        if isinstance(options, ExpertOptions) and options.target_parameters:
            settings["target_parameters"] = expert_names(model, options.target_parameters)
        return LoraConfig(**settings, **self.variant)

    def problems(self, skeleton: nn.Module, options: LoraOptions, context: Context) -> list[Problem]:
        """See :meth:`PeftMethod.problems`."""
        problems = super().problems(skeleton, options, context)
        if isinstance(options, ExpertOptions):
            problems += expert_problems(skeleton, options.target_parameters, options.lora_dropout)
        return problems


@hookimpl
def adapterzoo_methods() -> list[Lora]:
    """Return the methods of this file."""
    return [Lora()]
