"""LLaMA-Adapter: learned prompts in each attention layer, behind a gate that is closed before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapterzoo_plugins._float32 import Float32Method
from pydantic import Field

from adapterzoo import Context, Options, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class LlamaAdapterOptions(Options):
    """The options of LLaMA-Adapter."""

    adapter_len: int = Field(10, ge=1, description="number of learned tokens in each layer")
    adapter_layers: int | None = Field(
        None, ge=1, description="how many of the last layers get a prompt; by default all"
    )


class LlamaAdapter(Float32Method[LlamaAdapterOptions]):
    """LLaMA-Adapter, which PEFT calls adaption prompt."""

    name = "llama-adapter"
    summary = "gated prompts added to attention layers"
    paper = "https://arxiv.org/abs/2303.16199"
    # PEFT loses the new head of other tasks when it saves this adapter, or cannot load it again.
    task_types = ("CAUSAL_LM",)
    group = "prompt"
    prepends_tokens = True
    stands_for = ("adaption-prompt",)
    options = LlamaAdapterOptions
    learning_rate = 5e-3
    learning_rate_source = (
        "PEFT's method comparison (adaptionprompt/llama-3.2-3B-lr_5e-3), with 100 tokens in all layers"
    )
    mergeable_into = ()
    size_option = "adapter_len"

    def peft_config(self, model: nn.Module, options: LlamaAdapterOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import AdaptionPromptConfig

        return AdaptionPromptConfig(
            adapter_len=options.adapter_len,
            adapter_layers=options.adapter_layers or model.config.num_hidden_layers,
        )

    def trained_modules(self, model: nn.Module) -> Iterator[nn.Module]:
        """See :meth:`Float32Method.trained_modules`."""
        return (module for module in model.modules() if hasattr(module, "adaption_prompt"))


@hookimpl
def adapterzoo_methods() -> list[LlamaAdapter]:
    """Return the methods of this file."""
    return [LlamaAdapter()]
