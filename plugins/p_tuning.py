"""P-tuning: learned embeddings in front of every prompt, computed by a small network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapterzoo_plugins._idle import idle_options
from adapterzoo_plugins._prompt import PromptMethod
from pydantic import Field

from adapterzoo import Context, Options, Problem, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class PTuningOptions(Options):
    """The options of p-tuning."""

    num_virtual_tokens: int = Field(20, ge=1, description="number of learned embeddings")
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        "MLP", description="kind of the network that computes the embeddings"
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, description="width of that network; by default the model's hidden size"
    )
    encoder_num_layers: int = Field(2, ge=1, description="number of layers of the LSTM")
    encoder_dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the LSTM")


class PTuning(PromptMethod[PTuningOptions]):
    """P-tuning."""

    name = "p-tuning"
    summary = "embeddings from a small net before the input"
    paper = "https://arxiv.org/abs/2103.10385"
    options = PTuningOptions
    learning_rate = 1e-3
    learning_rate_source = "PEFT's method comparison (ptuning/llama-3.2-3B-vt50-MLP-lr1e-3), with 50 tokens"

    def problems(self, skeleton: nn.Module, options: PTuningOptions, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        problems: list[Problem] = super().problems(skeleton, options, context)
        if options.encoder_reparameterization_type == "MLP":
            names, why = ("encoder_num_layers", "encoder_dropout"), "it is for an LSTM, and the network is an MLP"
            problems += idle_options(options, names, why)
        return problems

    def peft_config(self, model: nn.Module, options: PTuningOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(**options.model_dump())


@hookimpl
def adapterzoo_methods() -> list[PTuning]:
    """Return the methods of this file."""
    return [PTuning()]
