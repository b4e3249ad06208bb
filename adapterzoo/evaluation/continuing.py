"""Continue texts whose keys and values are known, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from adapterzoo.evaluation.likelihood import max_positions
from adapterzoo.model.row_cache import RowCache, padded_cache, row_caches
from adapterzoo.tokens.batches import row_tokens, to_device, without_labels
from adapterzoo.tokens.shared_prefix import SharedPrefix, model_arguments

if TYPE_CHECKING:
    import torch
    from torch import nn


class AnswerTokens(Protocol):
    """An object that has the tokenizer of answers, and the ids and the text that are in them beside the answer."""

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer."""

    @property
    def end_ids(self) -> list[int]:
        """Return the ids of the tokens that end an answer."""

    @property
    def answer_header(self) -> str:
        """Return the text that the chat template has before an answer, after the generation prompt."""

    @property
    def pad_id(self) -> int:
        """Return the id of the padding token."""


def cached(
    model: nn.Module, encoded: AnswerTokens, prompts: Sequence[list[int]], prefix: SharedPrefix
) -> list[RowCache]:
    """Return the keys and values of each prompt's tokens."""
    from transformers import DynamicCache

    caches: list[RowCache] = []
    room = max_positions(model) / max(len(prompt) for prompt in prompts)
    size = len(prompts) if room == math.inf else 1 + int(room)
    for start in range(0, len(prompts), size):
        rows = [row_tokens(prompt) for prompt in prompts[start : start + size]]
        batch = to_device(without_labels(prefix.batch(rows, encoded.pad_id)), model)
        cache = DynamicCache()
        model(**model_arguments({**batch, "logits_to_keep": 1}, model, cache))
        caches += row_caches(cache, batch)
    return caches


def continued(
    model: nn.Module,
    encoded: AnswerTokens,
    texts: Sequence[list[int]],
    caches: Sequence[RowCache],
    limits: Sequence[int],
    choose: Callable[[torch.Tensor, Sequence[int], int], torch.Tensor] = lambda logits, rows, place: logits.argmax(
        dim=1
    ),
) -> list[list[int]]:
    """Return the likeliest tokens after each text, up to an end token; a row leaves the batch when it has ended.

    Args:
        model: the model in evaluation mode.
        encoded: gives the end tokens.
        texts: token ids of each text.
        caches: keys and values of each text's tokens; those of its last token are not used.
        limits: largest number of new tokens after each text.
        choose: returns the next token of some rows for their logits, (rows, vocabulary), the numbers of the rows, and
            the number of new tokens before; by default the likeliest token.
    """
    import torch

    answers: list[list[int]] = [[] for _ in texts]
    rows = list(range(len(texts)))
    known = [len(text) - 1 for text in texts]
    cache, seen = padded_cache(caches, known)
    chosen = torch.tensor([text[-1] for text in texts], device=seen.device)
    place = 0
    positions = torch.tensor(known, device=seen.device)[:, None]
    while True:
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], dim=1)
        with torch.no_grad():
            logits = model(
                input_ids=chosen[:, None],
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        chosen, positions, place = choose(logits, rows, place), positions + 1, place + 1
        for row, token in zip(rows, chosen.tolist(), strict=True):
            answers[row].append(token)
        unfinished = [
            place
            for place, row in enumerate(rows)
            if len(answers[row]) < limits[row] and answers[row][-1] not in encoded.end_ids
        ]
        if not unfinished:
            return answers
        if len(unfinished) < len(rows):
            kept = torch.tensor(unfinished, device=seen.device)
            cache.batch_select_indices(kept)
            chosen, seen, positions = chosen[kept], seen[kept], positions[kept]
            rows = [rows[place] for place in unfinished]
