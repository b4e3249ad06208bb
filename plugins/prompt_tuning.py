"""Prompt tuning: learned embeddings in front of every prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapterzoo_plugins._prompt import PromptMethod
from pydantic import Field

from adapterzoo import Context, Options, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class PromptTuningOptions(Options):
    """The options of prompt tuning."""

    num_virtual_tokens: int = Field(20, ge=1, description="number of learned embeddings")
    prompt_tuning_init: Literal["SAMPLE_VOCAB", "RANDOM"] = Field(
        "SAMPLE_VOCAB",
        description="start from the embeddings of random tokens, or from random numbers",
    )


class PromptTuning(PromptMethod[PromptTuningOptions]):
    """Prompt tuning."""

    name = "prompt-tuning"
    summary = "learned embeddings before the input"
    paper = "https://arxiv.org/abs/2104.08691"
    options = PromptTuningOptions
    learning_rate = 1e-3
    learning_rate_source = (
        "PEFT's method comparison (prompt_tuning/llama-3.2-3B-sample_vocab-lr_0.001), with 200 tokens"
    )

    def peft_config(self, model: nn.Module, options: PromptTuningOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(**options.model_dump())


@hookimpl
def adapterzoo_methods() -> list[PromptTuning]:
    """Return the methods of this file."""
    return [PromptTuning()]
