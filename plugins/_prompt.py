"""The base class of methods that learn a prompt, which is put in front of every row as a cache of keys and values.

PEFT puts virtual tokens in front of the batch and drops ``position_ids``. With padding on the left, the distance
between a row and its prompt then depends on the other rows, and PEFT expects labels for all columns of the
batch, while batches here have labels for the last columns only. For causal attention, a prompt is equivalent to the
keys and values that it leaves in the cache. With these, positions, padding, labels and generation are the same as for
every other method. What is trained and saved is exactly PEFT's.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo import AdapterzooError, Context, PeftMethod, Problem
from adapterzoo.methods.contract import TASK_TYPES, OptionsT

if TYPE_CHECKING:
    from torch import nn


class PromptMethod(PeftMethod[OptionsT]):
    """A method that trains a prompt and changes no layer."""

    group = "prompt"
    prepends_tokens = True
    starts_at_base = False
    mergeable_into = ()
    task_types = tuple(name for name in TASK_TYPES if name != "SEQ_2_SEQ_LM")  # its encoder keeps no cache
    size_option = "num_virtual_tokens"

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """Return a problem if the model has no cache of keys and values for a prompt."""
        problems = super().problems(skeleton, options, context)
        causal = any(getattr(module, "is_causal", False) for module in skeleton.modules())
        if not causal or getattr(skeleton.config, "is_encoder_decoder", False):
            what = "puts a learned prompt into the cache of a causal decoder, and this model is none."
            problems.append(Problem("model", f"{self.name} {what}", "Leave the method out, or choose another model."))
        return problems

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        return _to_prompt_model(super().wrap(model, options, context))

    def load(self, model: nn.Module, folder: Path, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.load`."""
        return _to_prompt_model(super().load(model, folder, options, context))


def _to_prompt_model(model: nn.Module) -> nn.Module:
    """Give PEFT's model the ``forward`` and ``generate`` of this file."""
    model.__class__ = _prompt_model_class()
    return model


@cache
def _prompt_model_class() -> type[nn.Module]:
    import torch
    from peft import PeftModelForCausalLM, PeftType
    from transformers import DynamicCache, StoppingCriteria

    class WithoutPrompt(StoppingCriteria):
        """A stopping criterion that does not see the ids in front of a row."""

        def __init__(self, criterion: Any, length: int) -> None:
            self.criterion = criterion
            self.length = length

        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
            return self.criterion(input_ids[:, self.length :], scores, **kwargs)

    class PromptModel(PeftModelForCausalLM):
        """PEFT's model, with the prompt in the cache."""

        def forward(
            self, input_ids: torch.Tensor, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any
        ) -> Any:
            if self.training and getattr(self.base_model, "is_gradient_checkpointing", False):
                raise AdapterzooError("a learned prompt needs the cache, which gradient_checkpointing turns off")
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            if position_ids is None:
                position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
            length = self.active_peft_config.num_virtual_tokens
            return self.base_model(
                input_ids=input_ids,
                attention_mask=self._with_prompt(attention_mask),
                position_ids=position_ids + length,
                past_key_values=self._prompt_cache(len(input_ids)),
                **kwargs,
            )

        def generate(self, input_ids: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> torch.Tensor:
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            # transformers skips as many ids as the cache has tokens, so put that many ids (of any value) in front.
            length = self.active_peft_config.num_virtual_tokens
            if kwargs.get("max_length") is not None:
                kwargs["max_length"] += length
            if criteria := kwargs.get("stopping_criteria"):
                kwargs["stopping_criteria"] = type(criteria)(WithoutPrompt(each, length) for each in criteria)
            skipped = input_ids.new_zeros(len(input_ids), length)
            output: torch.Tensor = self.base_model.generate(
                input_ids=torch.cat([skipped, input_ids], dim=1),
                attention_mask=self._with_prompt(attention_mask),
                past_key_values=self._prompt_cache(len(input_ids)),
                **kwargs,
            )
            return output[:, length:]

        def _with_prompt(self, attention_mask: torch.Tensor) -> torch.Tensor:
            ones = attention_mask.new_ones(len(attention_mask), self.active_peft_config.num_virtual_tokens)
            return torch.cat([ones, attention_mask], dim=1)

        def _prompt_cache(self, rows: int) -> Any:
            """Return the prompt's keys and values, repeated for a number of rows."""
            config = self.active_peft_config
            if config.peft_type in (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE):
                return self.get_prompt(rows)
            task = torch.zeros(1, dtype=torch.long, device=self.word_embeddings.weight.device)
            embedded = self.get_prompt(1, task_ids=task).to(self.word_embeddings.weight.dtype)
            # The decoder without its head: a head for labels returns no cache.
            cache = self.base_model.base_model(inputs_embeds=embedded, use_cache=True).past_key_values
            return DynamicCache(
                [(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)) for layer in cache.layers]
            )

    return PromptModel
