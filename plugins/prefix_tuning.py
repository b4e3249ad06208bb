"""Prefix tuning: learned keys and values in front of every layer's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapterzoo_plugins._prompt import PromptMethod
from pydantic import Field

from adapterzoo import Context, Options, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class PrefixTuningOptions(Options):
    """The options of prefix tuning."""

    num_virtual_tokens: int = Field(50, ge=1, description="number of learned keys and values in each layer")
    # After a random start, PEFT's default, the input has little effect: the quickstart's loss was 16.5; after zeros, 3.
    init_weights: Literal["zero"] | None = Field("zero", description="start from zeros, or (null) at random")
    prefix_projection: bool = Field(
        False, description="learn the keys and values with a small network, which is dropped after training"
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, description="width of that network; by default the model's hidden size"
    )


class PrefixTuning(PromptMethod[PrefixTuningOptions]):
    """Prefix tuning."""

    name = "prefix-tuning"
    summary = "learned keys and values in every layer"
    paper = "https://arxiv.org/abs/2101.00190"
    options = PrefixTuningOptions
    learning_rate = 5e-3
    learning_rate_source = (
        "PEFT's method comparison (prefixtuning/llama-3.2-3B-tokens50-...-lr_0.005), with its 50 tokens"
    )

    def peft_config(self, model: nn.Module, options: PrefixTuningOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            **{**options.model_dump(), "encoder_hidden_size": options.encoder_hidden_size or model.config.hidden_size},
        )


@hookimpl
def adapterzoo_methods() -> list[PrefixTuning]:
    """Return the methods of this file."""
    return [PrefixTuning()]
