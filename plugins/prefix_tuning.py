"""Prefix tuning: learned keys and values in front of every layer's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins._idle import idle_options
from adapterzoo_plugins._prompt import PromptMethod
from pydantic import Field

from adapterzoo import Context, Options, Problem, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

# The quickstart's loss starts at 4 with this spread, as it does with keys of zero; with a spread of 1.0 it starts at 9.
# The gradients of two tokens differ by about half of their size.
KEY_SPREAD = 0.3
"""standard deviation of the keys at the start"""


class PrefixTuningOptions(Options):
    """The options of prefix tuning."""

    num_virtual_tokens: int = Field(50, ge=1, description="number of learned keys and values in each layer")
    # PEFT's default draws the values at random too. They outweigh the input: the quickstart's loss then starts at 16.5.
    init_weights: Literal["zero"] | None = Field(
        "zero", description="start with values of zero and random keys, or (null) with both at random"
    )
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

    def problems(self, skeleton: nn.Module, options: PrefixTuningOptions, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        problems: list[Problem] = super().problems(skeleton, options, context)
        if not options.prefix_projection:
            problems += idle_options(options, ("encoder_hidden_size",), "it is for prefix_projection, which is false")
        return problems

    def peft_config(self, model: nn.Module, options: PrefixTuningOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            **{**options.model_dump(), "encoder_hidden_size": options.encoder_hidden_size or model.config.hidden_size},
        )

    def wrap(self, model: nn.Module, options: PrefixTuningOptions, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        wrapped = super().wrap(model, options, context)
        if options.init_weights == "zero" and not options.prefix_projection:
            _draw_keys(wrapped)
        return wrapped


def _draw_keys(wrapped: Any) -> None:
    """Give each virtual token keys of its own.

    PEFT starts all of them with zeros. Equal tokens get equal gradients, so they would stay equal in training.
    """
    from torch.nn import init

    weight = wrapped.prompt_encoder["default"].embedding.weight
    layers = wrapped.peft_config["default"].num_layers
    init.normal_(weight.data.view(len(weight), layers, 2, -1)[:, :, 0], std=KEY_SPREAD)  # beside each key is its value


@hookimpl
def adapterzoo_methods() -> list[PrefixTuning]:
    """Return the methods of this file."""
    return [PrefixTuning()]
