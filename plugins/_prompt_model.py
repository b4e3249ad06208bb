"""PEFT's model with a learned prompt, which is put into the cache; only methods that are used import this file."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModelForCausalLM, PeftType
from transformers import DynamicCache, StoppingCriteria

from adapterzoo import AdapterzooError


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
