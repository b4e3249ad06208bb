"""Answer test prompts, and measure the likelihoods of their references in the same go.

Measuring a reference's likelihood gives most of the work of answering: the keys and values of the prompt, and the
likeliest token at the position of each token of the reference. As long as the likeliest tokens are the reference's, the
greedy answer is the reference, so only the rest is generated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from adapterzoo.evaluation.continuing import continued
from adapterzoo.evaluation.generation import greedy
from adapterzoo.evaluation.likelihood import likelihoods, measured_batches
from adapterzoo.machine import ranks
from adapterzoo.model.row_cache import RowCache
from adapterzoo.tasks.evaluation import Likelihood
from adapterzoo.tokens.batches import Tokens
from adapterzoo.tokens.encoded import Encoded
from adapterzoo.tokens.shared_prefix import SharedPrefix

if TYPE_CHECKING:
    from torch import nn

MAX_DISAGREEING = 0.1  # largest accepted share of generated answers that begin differently than predicted


class FirstAnswers(NamedTuple):
    """The answers to the first prompts, generated while the right answers were not in memory."""

    answers: list[list[int]]
    """token ids of each answer"""
    seconds: float
    """mean time of one answer, from the prompt on"""


class Answered(NamedTuple):
    """The answers to prompts."""

    answers: list[list[int]]
    """token ids of each answer; ids after an end token have no meaning"""
    measured: Sequence[Likelihood | None]
    """likelihood of each reference; None if it was not measured"""
    remembered: float = 0.0
    """share of the first prompts whose answer is the reference only once references are in memory"""


@dataclass(frozen=True)
class _Unfinished:
    """An answer whose start is known."""

    index: int
    start: list[int]
    cache: RowCache


def answer_first(
    model: nn.Module,
    encoded: Encoded,
    prompts: Sequence[list[int]],
    limit: int,
    batch_size: int,
    prefix: SharedPrefix | None = None,
) -> FirstAnswers:
    """Return the greedy answers to one batch of prompts, generated from their first token on, and time them."""
    first = prompts[:batch_size]
    begun = time.perf_counter()
    answers = greedy(model, encoded, first, batch_size, [limit] * len(first), prefix)
    return FirstAnswers(answers, (time.perf_counter() - begun) / len(first))


def answer(
    model: nn.Module,
    encoded: Encoded,
    prompts: Sequence[list[int]],
    rows: Sequence[Tokens],
    first: FirstAnswers,
    limit: int,
    batch_size: int,
    prefix: SharedPrefix | None = None,
    *,
    with_likelihoods: bool = True,
) -> Answered:
    """Return the greedy answers to prompts, and the likelihoods of their references.

    The first prompts are answered again. Other answers show that the model knows the references, or that likelihoods do
    not say how its answers begin.

    Args:
        model: the model; it is left in evaluation mode.
        encoded: gives the end tokens and the padding token.
        prompts: token ids of each prompt.
        rows: the tokens of each prompt and its reference.
        first: the answers to the first prompts, which are kept.
        limit: largest number of tokens of an answer.
        batch_size: largest number of rows in a batch.
        prefix: joins rows that begin with the same tokens into one sequence; None if rows are padded.
        with_likelihoods: whether to measure likelihoods.
    """
    count = len(first.answers)
    first_prompts, other_prompts, first_rows, other_rows = prompts[:count], prompts[count:], rows[:count], rows[count:]
    if not with_likelihoods:
        others = greedy(model, encoded, other_prompts, batch_size, [limit] * len(other_prompts), prefix)
        return Answered([*first.answers, *others], [None] * len(prompts))
    if prefix is None:
        measured, agree = likelihoods(model, first_rows, encoded.pad_id, batch_size), False
    else:
        measured, again = _answer_by_likelihood(model, encoded, first_prompts, first_rows, limit, batch_size, prefix)
        agree = _agree(first.answers, first_prompts, first_rows, measured)
    if prefix is not None and agree:
        likely, others = _answer_by_likelihood(model, encoded, other_prompts, other_rows, limit, batch_size, prefix)
    else:
        again = greedy(model, encoded, first_prompts, batch_size, [limit] * count, prefix)
        others = greedy(model, encoded, other_prompts, batch_size, [limit] * len(other_prompts), prefix)
        likely = likelihoods(model, other_rows, encoded.pad_id, batch_size, prefix)
    references = [ids[len(prompt) :] for prompt, (ids, _) in zip(first_prompts, first_rows, strict=True)]
    remembered = [
        then[: len(right)] == right != before[: len(right)]
        for before, then, right in zip(first.answers, again, references, strict=True)
    ]
    return Answered([*first.answers, *others], [*measured, *likely], sum(remembered) / count)


def _agree(
    answers: Sequence[list[int]],
    prompts: Sequence[list[int]],
    rows: Sequence[Tokens],
    measured: Sequence[Likelihood],
) -> bool:
    """Tell whether answers begin as the likelihoods of their references say.

    Rounding may decide between two tokens that are almost equally likely. If too many answers differ, the likelihoods
    say nothing about this model's answers; for example, because it sees the next token.
    """
    starts = [
        greedy_start(ids[len(prompt) :], row) for prompt, (ids, _), row in zip(prompts, rows, measured, strict=True)
    ]
    differing = sum(ids[: len(start)] != start[: len(ids)] for ids, start in zip(answers, starts, strict=True))
    return differing <= MAX_DISAGREEING * len(answers)


def _answer_by_likelihood(
    model: nn.Module,
    encoded: Encoded,
    prompts: Sequence[list[int]],
    rows: Sequence[Tokens],
    limit: int,
    batch_size: int,
    prefix: SharedPrefix,
) -> tuple[list[Likelihood], list[list[int]]]:
    """Return the likelihoods of references and the answers, of which only the unknown part is generated."""
    measured: dict[int, Likelihood] = {}
    answers: dict[int, list[int]] = {}
    waiting: list[_Unfinished] = []

    def finish(group: Sequence[_Unfinished]) -> None:
        texts = [prompts[answer.index] + answer.start for answer in group]
        limits = [limit - len(answer.start) for answer in group]
        ends = continued(model, encoded, texts, [answer.cache for answer in group], limits)
        answers.update({answer.index: answer.start + end for answer, end in zip(group, ends, strict=True)})

    for indices, likely, caches in measured_batches(model, rows, encoded.pad_id, batch_size, prefix):
        for index, likelihood, cache in zip(indices, likely, caches, strict=True):
            measured[index] = likelihood
            start = greedy_start(rows[index][0][len(prompts[index]) :], likelihood)[:limit]
            if len(start) == limit or set(start) & set(encoded.end_ids):
                answers[index] = start
            else:
                waiting.append(_Unfinished(index, start, cache))
        # The caches of some batches together are answered in fewer steps; those of all would need much memory.
        while len(waiting) >= batch_size:
            finish(waiting[:batch_size])
            del waiting[:batch_size]
    if waiting:
        finish(waiting)
    measured, answers = ranks.merged(measured), ranks.merged(answers)
    return [measured[index] for index in range(len(rows))], [answers[index] for index in range(len(rows))]


def greedy_start(reference: Sequence[int], likelihood: Likelihood) -> list[int]:
    """Return the start of the greedy answer: the reference up to the first difference, then the model's token.

    Args:
        reference: token ids of the reference.
        likelihood: likelihood of the reference after the same prompt.
    """
    # The reference's tokens are the last of a row, so they are also the last of the learned tokens.
    if likelihood.tokens < len(reference):
        return []
    likeliest = likelihood.likeliest[-len(reference) :]
    pairs = enumerate(zip(reference, likeliest, strict=True))
    same = next((index for index, pair in pairs if pair[0] != pair[1]), len(reference))
    return [*reference[:same], *likeliest[same : same + 1]]
