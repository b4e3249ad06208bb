"""Greedy answers: what a model finds likeliest after a prompt, token by token, up to the end token."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapterzoo.tokens.batches import batches_by_length, pad_batch, row_tokens, to_device
from adapterzoo.tokens.encode import Encoded
from adapterzoo.tokens.shared_prefix import SharedPrefix, common_prefix

if TYPE_CHECKING:
    from torch import nn


def generate(
    model: nn.Module, encoded: Encoded, prompts: Sequence[list[int]], batch_size: int, max_new_tokens: int
) -> list[str]:
    """Return the greedy answer to each prompt as text; see :func:`greedy`."""
    limits = [max_new_tokens] * len(prompts)
    return [decoded(ids, encoded) for ids in greedy(model, encoded, prompts, batch_size, limits)]


def decoded(ids: Sequence[int], encoded: Encoded) -> str:
    """Return the text of an answer, up to the end token."""
    ended = next((at for at, token in enumerate(ids) if token in encoded.end_ids), len(ids))
    return str(encoded.tokenizer.decode(ids[:ended], skip_special_tokens=True)).strip()


def greedy(
    model: nn.Module,
    encoded: Encoded,
    prompts: Sequence[list[int]],
    batch_size: int,
    limits: Sequence[int],
    prefix: SharedPrefix | None = None,
) -> list[list[int]]:
    """Return the token ids of the greedy answer to each prompt; what follows an end token means nothing.

    Args:
        model: in whatever state; left in evaluation mode.
        encoded: whose tokenizer the prompts are of.
        prompts: token ids.
        batch_size: prompts at a time, at most.
        limits: how many tokens each answer may have.
        prefix: given where tokens that all prompts begin with may go through the model once.
    """
    import torch

    answers: list[list[int]] = [[]] * len(prompts)
    model.eval()
    with torch.no_grad(), _no_generation_defaults(model):
        beginning = None if prefix is None or not prompts else _Beginning(model, prompts)
        for indices in batches_by_length([len(prompt) for prompt in prompts], batch_size):
            group, allowed = [prompts[i] for i in indices], [limits[i] for i in indices]
            if beginning is None:
                found = _by_transformers(model, encoded, group, allowed)
            else:
                found = beginning.answers(group, encoded, allowed)
            for i, ids in zip(indices, found, strict=True):
                answers[i] = ids
    return answers


def _by_transformers(
    model: Any, encoded: Encoded, prompts: Sequence[list[int]], limits: Sequence[int]
) -> list[list[int]]:
    """Return the answers of one padded batch, by the model's own ``generate``."""
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=max(limits),
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=encoded.end_ids,
        pad_token_id=encoded.pad_id,
    )
    batch = pad_batch([row_tokens(prompt) for prompt in prompts], encoded.pad_id)
    inputs = to_device({name: batch[name] for name in ("input_ids", "attention_mask")}, model)
    output = model.generate(**inputs, generation_config=settings)
    answers = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [answer[:limit] for answer, limit in zip(answers, limits, strict=True)]


class _Beginning:
    """The cached keys and values of the tokens that all prompts begin with."""

    def __init__(self, model: Any, prompts: Sequence[list[int]]) -> None:
        import torch
        from transformers import DynamicCache

        self.model = model
        self.length = common_prefix([row_tokens(prompt) for prompt in prompts])
        self.cache = DynamicCache(config=model.config)
        if self.length:
            ids = to_device({"input_ids": torch.tensor([prompts[0][: self.length]])}, model)
            model(**ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def answers(self, prompts: Sequence[list[int]], encoded: Encoded, limits: Sequence[int]) -> list[list[int]]:
        """Return the greedy answers of one batch; a row that has ended, or has all its tokens, leaves it."""
        import torch

        found: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))
        batch = pad_batch([row_tokens(prompt[self.length :]) for prompt in prompts], encoded.pad_id)
        batch = to_device({name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}, self.model)
        ids, positions = batch["input_ids"], batch["position_ids"] + self.length
        seen = torch.cat([batch["attention_mask"].new_ones(len(rows), self.length), batch["attention_mask"]], dim=1)
        cache = copy.deepcopy(self.cache)
        if self.length:
            cache.batch_repeat_interleave(len(rows))
        while True:
            logits = self.model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = logits.argmax(dim=1)
            for row, token in zip(rows, chosen.tolist(), strict=True):
                found[row].append(token)
            going_on = [
                at
                for at, row in enumerate(rows)
                if len(found[row]) < limits[row] and found[row][-1] not in encoded.end_ids
            ]
            if not going_on:
                return found
            if len(going_on) < len(rows):
                kept = torch.tensor(going_on, device=ids.device)
                cache.batch_select_indices(kept)
                chosen, seen, positions = chosen[kept], seen[kept], positions[kept]
                rows = [rows[at] for at in going_on]
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            seen = torch.cat([seen, seen.new_ones(len(rows), 1)], dim=1)


@contextmanager
def _no_generation_defaults(model: nn.Module) -> Iterator[None]:
    """Keep the model's own generation configuration out of its answers.

    It may sample or punish repetition, and transformers fills in from it whatever a configuration of ours leaves open.
    """
    from transformers import GenerationConfig

    own = [(module, vars(module)["generation_config"]) for module in model.modules() if _has_defaults(module)]
    for module, _ in own:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, configuration in own:
            module.generation_config = configuration


def _has_defaults(module: nn.Module) -> bool:
    return vars(module).get("generation_config") is not None
