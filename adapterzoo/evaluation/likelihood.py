"""Measure how likely a model finds the learned tokens of rows."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress
from typing import TYPE_CHECKING

from adapterzoo.machine import ranks
from adapterzoo.model.row_cache import RowCache, row_caches
from adapterzoo.tasks.evaluation import Likelihood
from adapterzoo.tokens.batches import Tokens, batches_by_length, pad_batch, to_device, without_labels
from adapterzoo.tokens.shared_prefix import SharedPrefix, learned_parts, model_arguments

if TYPE_CHECKING:
    from torch import nn

LOSS_POSITIONS = 64  # number of positions whose losses are computed together
MAX_CPU_POSITIONS = 512  # positions of a batch on a CPU, whose caches then hold the output of a layer


def likelihoods(
    model: nn.Module,
    rows: Sequence[Tokens],
    pad_id: int,
    batch_size: int,
    prefix: SharedPrefix | None = None,
    *,
    losses_only: bool = False,
) -> list[Likelihood]:
    """Return the likelihood of the learned tokens of each row.

    Args:
        model: the model; it is left in evaluation mode.
        rows: the rows, each with at least one learned token.
        pad_id: id of the token that pads rows.
        batch_size: largest number of rows in a batch.
        prefix: joins rows that begin with the same tokens into one sequence; None if rows are padded.
        losses_only: whether to leave out the likeliest tokens; finding them takes longer than the losses.
    """
    measured: dict[int, Likelihood] = {}
    for indices, found, _ in measured_batches(
        model, rows, pad_id, batch_size, prefix, losses_only=losses_only, with_caches=False
    ):
        for i, likelihood in zip(indices, found, strict=True):
            measured[i] = likelihood
    measured = ranks.merged(measured)
    return [measured[i] for i in range(len(rows))]


def measured_batches(
    model: nn.Module,
    rows: Sequence[Tokens],
    pad_id: int,
    batch_size: int,
    prefix: SharedPrefix | None,
    *,
    losses_only: bool = False,
    with_caches: bool = True,
) -> Iterator[tuple[list[int], list[Likelihood], list[RowCache]]]:
    """Yield for each batch the indices of its rows, their likelihoods, and their caches; see :func:`likelihoods`.

    Where ranks divide their work, each yields only its own batches.

    Args:
        model: see :func:`likelihoods`, as for the other arguments.
        rows: the rows.
        pad_id: id of the padding token.
        batch_size: largest number of rows in a batch.
        prefix: joins rows.
        losses_only: whether to leave out the likeliest tokens.
        with_caches: whether to keep the keys and values of the rows; without them the lists of caches are empty.
    """
    import torch
    from torch.nn import functional
    from transformers import DynamicCache

    spans = [len(learned) - learned.index(True) + 1 for _, learned in rows]
    counts = [sum(learned) for _, learned in rows]
    model.eval()
    batches = batches_by_length([len(ids) for ids, _ in rows], batch_size, spans, max_positions(model))
    for indices in ranks.own_share(batches):
        group = [rows[i] for i in indices]
        batch = to_device(pad_batch(group, pad_id) if prefix is None else prefix.batch(group, pad_id), model)
        cache = DynamicCache() if with_caches else None
        # Do not use inference_mode: a tensor that a layer caches in it cannot be used in training later.
        with torch.no_grad():
            # Leave the labels out, because the model's own loss may include a method's regulariser.
            logits = model(**model_arguments(without_labels(batch), model, cache)).logits
            losses, likeliest = [], []
            # A vocabulary is large, so compute the losses in parts that fit into the processor's cache.
            for part, targets in learned_parts(logits, batch, LOSS_POSITIONS):
                losses.append(functional.cross_entropy(part.float(), targets, reduction="none"))
                if not losses_only:
                    likeliest += part.argmax(dim=1).tolist()
        sizes = [counts[i] for i in indices]
        starts = accumulate(sizes[:-1], initial=0)
        found = []
        for i, start, loss in zip(indices, starts, torch.cat(losses).double().split(sizes), strict=True):
            best = tuple(likeliest[start : start + counts[i]])
            right = sum(map(operator.eq, best, compress(*rows[i])))
            found.append(Likelihood(loss.sum().item(), counts[i], best, right))
        yield indices, found, [] if cache is None else row_caches(cache, batch)


def max_positions(model: nn.Module) -> float:
    """Return the largest number of positions in a batch for measuring."""
    return MAX_CPU_POSITIONS if next(model.parameters()).device.type == "cpu" else math.inf
