"""EVA: LoRA that starts from the main directions of each layer's inputs on the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterzoo_plugins.lora import Lora, LoraOptions
from pydantic import Field

from adapterzoo import Context, Problem, hookimpl
from adapterzoo.methods.targets import pooler_problems

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class EvaOptions(LoraOptions):
    """The options of EVA."""

    rho: float = Field(1.0, ge=1, description="largest rank of a layer, as a multiple of r; 1 = r in all layers")


class Eva(Lora):
    """Explained variance adaptation: LoRA with another start."""

    name = "eva"
    summary = "starts LoRA from an SVD of layer inputs"
    paper = "https://arxiv.org/abs/2410.07170"
    options = EvaOptions
    learning_rate_source = "the rate of lora, so that the two rows differ only in the method; PEFT's example uses 5e-4"
    reads_data = True
    # PEFT's mask of padding does not fit the decoder of an encoder-decoder model.
    task_types = ("CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

    def problems(self, skeleton: nn.Module, options: LoraOptions, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        pooled = pooler_problems(skeleton, options.target_modules, self.name)
        return [*super().problems(skeleton, options, context), *pooled]

    def peft_config(self, model: nn.Module, options: LoraOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import EvaConfig

        assert isinstance(options, EvaOptions)
        config = super().peft_config(model, options, context)
        config.init_lora_weights = "eva"
        config.eva_config = EvaConfig(rho=options.rho)
        return config

    def wrap(self, model: nn.Module, options: LoraOptions, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        from peft import initialize_lora_eva_weights

        wrapped = super().wrap(model, options, context)
        device = next(model.parameters()).device
        # PEFT only needs the inputs, without labels; the mask tells it which tokens are padding.
        names = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}
        batches = [
            {name: value.to(device) for name, value in batch.items() if name in names} for batch in context.batches()
        ]
        if batches:  # a dry run has none
            wrapped.eval()
            # All processes that train together read the same batches, so there is nothing to gather from others.
            initialize_lora_eva_weights(wrapped, batches, gather_distributed_inputs=False, show_progress_bar=False)
        return wrapped


@hookimpl
def adapterzoo_methods() -> list[Eva]:
    """Return the methods of this file."""
    return [Eva()]
