"""Generate answers: after a prompt, take the likeliest token again and again, up to the end token, or draw tokens."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapterzoo.evaluation.continuing import AnswerTokens, cached, continued
from adapterzoo.evaluation.decoding import decoded
from adapterzoo.machine import ranks
from adapterzoo.model.config import text_config
from adapterzoo.tokens.batches import batches_by_length, pad_batch, row_tokens, to_device
from adapterzoo.tokens.shared_prefix import SharedPrefix

if TYPE_CHECKING:
    import torch
    from torch import nn


def generate(
    model: nn.Module, encoded: AnswerTokens, prompts: Sequence[list[int]], batch_size: int, max_new_tokens: int
) -> list[str]:
    """Return the greedy answer to each prompt as text; see :func:`greedy`.

    An answer ends where the model can read no more tokens.
    """
    limits = [min(max_new_tokens, readable(model) - len(prompt)) for prompt in prompts]
    # Rows of a batch get equally many tokens, so a row with less room than others is in a batch of its own.
    answers: dict[int, list[int]] = {}
    for limit in sorted(set(limits)):
        rows = [row for row, own in enumerate(limits) if own == limit]
        found = greedy(model, encoded, [prompts[row] for row in rows], batch_size, [limit] * len(rows))
        answers |= dict(zip(rows, found, strict=True))
    return [decoded(answers[row], encoded) for row in range(len(prompts))]


def readable(model: nn.Module) -> int:
    """Return the largest number of tokens that a model can read, or a huge number if it does not say."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None) or sys.maxsize


def greedy(
    model: nn.Module,
    encoded: AnswerTokens,
    prompts: Sequence[list[int]],
    batch_size: int,
    limits: Sequence[int],
    prefix: SharedPrefix | None = None,
) -> list[list[int]]:
    """Return the token ids of the greedy answer to each prompt; ids after an end token have no meaning.

    Args:
        model: the model; it is left in evaluation mode.
        encoded: gives the end tokens and the padding token.
        prompts: token ids of each prompt.
        batch_size: largest number of prompts in a batch.
        limits: largest number of tokens of each answer.
        prefix: joins prompts that begin with the same tokens into one sequence; None if prompts are padded.
    """
    import torch

    answers: dict[int, list[int]] = {}
    model.eval()
    with torch.no_grad():
        for indices in ranks.own_share(batches_by_length([len(prompt) for prompt in prompts], batch_size)):
            group, allowed = [prompts[i] for i in indices], [limits[i] for i in indices]
            if prefix is None:
                generated = _transformers_answers(model, encoded, group, allowed)
            else:
                generated = continued(model, encoded, group, cached(model, encoded, group, prefix), allowed)
            for i, ids in zip(indices, generated, strict=True):
                answers[i] = ids
    answers = ranks.merged(answers)
    return [answers[i] for i in range(len(prompts))]


def sample(
    model: nn.Module,
    encoded: AnswerTokens,
    prompts: Sequence[list[int]],
    count: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    prefix: SharedPrefix | None = None,
) -> list[list[int]]:
    """Return the token ids of answers that are drawn by their likelihood; ids after an end token have no meaning.

    The random number of each token depends on the seed, the answer and the place alone. So models with the same
    likelihoods draw the same answers, joined or padded.

    Args:
        model: the model in evaluation mode.
        encoded: gives the end tokens and the padding token.
        prompts: token ids of each prompt.
        count: number of answers to each prompt; they follow each other in the result.
        max_new_tokens: largest number of tokens of an answer.
        temperature: divides the logits.
        seed: decides what is drawn.
        prefix: computes each prompt once for all its answers; None if prompts are padded.
    """
    import torch
    from transformers import LogitsProcessorList

    texts = [prompt for prompt in prompts for _ in range(count)]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(texts), max_new_tokens, generator=generator, dtype=torch.double)

    def draw(logits: torch.Tensor, rows: Sequence[int], place: int) -> torch.Tensor:
        sums = (logits.double() / temperature).softmax(dim=1).cumsum(dim=1)
        at = drawn[list(rows), place].to(logits.device)[:, None] * sums[:, -1:]
        return torch.searchsorted(sums, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1)

    if prefix is not None:
        with torch.no_grad():
            caches = [cache for cache in cached(model, encoded, prompts, prefix) for _ in range(count)]
            return continued(model, encoded, texts, caches, [max_new_tokens] * len(texts), draw)
    batch = pad_batch([row_tokens(text) for text in texts], encoded.pad_id)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    begin, places = inputs["input_ids"].shape[1], itertools.count()

    def only_drawn(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        chosen = draw(logits, range(len(logits)), next(places))
        return torch.full_like(logits, -torch.inf).scatter(1, chosen[:, None], 0.0)

    processors = LogitsProcessorList([only_drawn])
    output = generated(model, inputs, max_new_tokens, encoded.end_ids, encoded.pad_id, processors)
    return [answer[begin:] for answer in output]


def _transformers_answers(
    model: Any, encoded: AnswerTokens, prompts: Sequence[list[int]], limits: Sequence[int]
) -> list[list[int]]:
    """Return the answers of one padded batch, generated by transformers."""
    batch = pad_batch([row_tokens(prompt) for prompt in prompts], encoded.pad_id)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    output = generated(model, inputs, max(limits), encoded.end_ids, encoded.pad_id)
    start = inputs["input_ids"].shape[1]
    return [answer[start : start + limit] for answer, limit in zip(output, limits, strict=True)]


def generated(
    model: Any,
    inputs: dict[str, Any],
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    processors: Any = None,
    streamer: Any = None,
    **settings: Any,
) -> list[list[int]]:
    """Return the rows of token ids that transformers generates, greedily, whatever the model's own settings are.

    Args:
        model: the model in evaluation mode.
        inputs: the padded batch that is to be answered.
        max_new_tokens: largest number of new tokens.
        end_ids: ids of the tokens that end an answer.
        pad_id: id of the token after the end of an answer that is shorter than others.
        processors: change the logits before the likeliest token is taken.
        streamer: is given each token as soon as it is known; see transformers' ``BaseStreamer``.
        settings: further settings of transformers' ``GenerationConfig``.
    """
    import torch
    from transformers import GenerationConfig

    greedily = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=[*end_ids],
        pad_token_id=pad_id,
        **settings,
    )
    with torch.no_grad(), _no_generation_defaults(model), _no_router_loss(model):
        output: list[list[int]] = model.generate(
            **to_device(inputs, model), generation_config=greedily, logits_processor=processors, streamer=streamer
        ).tolist()
    return output


@contextmanager
def _no_generation_defaults(model: nn.Module) -> Iterator[None]:
    """Remove the model's own generation configuration in a ``with`` block, because it would change the answers.

    It may turn on sampling or a penalty for repetition, and transformers uses it for everything that our configuration
    does not set.
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


@contextmanager
def _no_router_loss(model: Any) -> Iterator[None]:
    """Let a mixture of experts compute no loss of its router in a ``with`` block.

    transformers computes it for the new token alone, with the mask of all tokens, which fails.
    """
    config = text_config(model.config)
    wanted = getattr(config, "output_router_logits", False)
    if not wanted:
        yield
        return
    config.output_router_logits = False
    try:
        yield
    finally:
        config.output_router_logits = wanted


def _has_defaults(module: nn.Module) -> bool:
    return vars(module).get("generation_config") is not None
