"""The losses of embeddings: those of sentence-transformers for training, and the loss of each row of a whole split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins.tasks._embedding_rows import Shape
from pydantic import Field

from adapterzoo import Options, Problem

if TYPE_CHECKING:
    import torch

Loss = Literal["multiple_negatives", "triplet", "cosent", "cosine"]
CLASSES = {
    "multiple_negatives": ("MultipleNegativesRankingLoss", {"scale": "scale"}),
    "triplet": ("TripletLoss", {"margin": "triplet_margin"}),
    "cosent": ("CoSENTLoss", {"scale": "scale"}),
    "cosine": ("CosineSimilarityLoss", {}),
}
"""loss -> its class in sentence-transformers, and option of the task -> argument of the class"""
SHAPES: dict[str, Sequence[Shape]] = {
    "multiple_negatives": ("pairs", "triplets"),
    "triplet": ("triplets",),
    "cosent": ("scored pairs",),
    "cosine": ("scored pairs",),
}
"""loss -> the rows that it can learn from"""
COMPARES_ROWS = ("multiple_negatives", "cosent")
"""losses that compare the rows of a batch with each other: they are 0 for a single row"""
ROWS_AT_ONCE = 256  # rows of a matrix of similarities that are in memory at a time


class EmbeddingOptions(Options):
    """The options of the task."""

    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto",
        description="which outputs are a text's embedding: the mean, the first or the last; auto = as the model's own "
        "files of sentence-transformers say, otherwise last for causal models and mean for encoders",
    )
    loss: Literal["auto", "multiple_negatives", "triplet", "cosent", "cosine"] = Field(
        "auto", description="what is minimised; auto = cosent for scored pairs, otherwise multiple_negatives"
    )
    scale: float = Field(20.0, gt=0, description="multiple_negatives and cosent: factor of the cosines")
    margin: float = Field(
        5.0,
        gt=0,
        description="triplet: how much farther than the positive the negative is to be, in Euclidean distance",
    )


def loss_of(shape: Shape, options: EmbeddingOptions) -> Loss:
    """Return the loss that is minimised."""
    if options.loss != "auto":
        return options.loss
    return "cosent" if shape == "scored pairs" else "multiple_negatives"


def option_problems(shape: Shape, options: EmbeddingOptions) -> list[Problem]:
    """Return the problems of a loss that cannot learn from such rows, and of options that it does not use."""
    loss, problems = loss_of(shape, options), list[Problem]()
    if shape not in SHAPES[loss]:
        fitting = ", ".join(name for name, shapes in SHAPES.items() if shape in shapes)
        what = f"{loss} learns from {' or '.join(SHAPES[loss])}, and these rows are {shape}."
        problems.append(Problem("task.loss", what, f"Choose from: {fitting}."))
    for option in ("scale", "margin"):
        changed = getattr(options, option) != EmbeddingOptions.model_fields[option].default
        if changed and option not in CLASSES[loss][1]:
            users = " and ".join(name for name, (_, used) in CLASSES.items() if option in used)
            what = f"has no effect: it is an option of {users}, and the loss is {loss}."
            problems.append(Problem(f"task.{option}", what, "Leave it out, or set task.loss."))
    return problems


def batch_loss(
    loss: Loss, options: EmbeddingOptions, embeddings: Sequence[torch.Tensor], scores: torch.Tensor | None
) -> torch.Tensor:
    """Return sentence-transformers' loss of a batch.

    Args:
        loss: name of the loss.
        options: options of the task.
        embeddings: the embeddings of each column of the rows.
        scores: score of each row, if it has one.
    """
    computed: torch.Tensor = _library_loss(loss, options).compute_loss_from_embeddings([*embeddings], scores)
    return computed


@cache
def _library_loss(loss: Loss, options: EmbeddingOptions) -> Any:
    from sentence_transformers.sentence_transformer import losses

    kind, used = CLASSES[loss]
    # The loss needs no model, because it gets the embeddings.
    return getattr(losses, kind)(None, **{argument: getattr(options, option) for option, argument in used.items()})


def losses_of_rows(
    loss: Loss, options: EmbeddingOptions, embeddings: Sequence[torch.Tensor], scores: torch.Tensor | None
) -> torch.Tensor:
    """Return the loss of each row, whose mean is the loss of all rows as one batch; the arguments are as above."""
    from torch.nn.functional import pairwise_distance

    if loss == "triplet":
        anchor, positive, negative = embeddings
        excess = pairwise_distance(anchor, positive) - pairwise_distance(anchor, negative)
        return (excess + options.margin).relu()
    unit = [column / column.norm(dim=1, keepdim=True).clamp(min=1e-12) for column in embeddings]
    if loss == "multiple_negatives":
        return _of_multiple_negatives(unit, options.scale)
    assert scores is not None
    cosines = (unit[0] * unit[1]).sum(dim=1)
    return (cosines - scores) ** 2 if loss == "cosine" else _parts_of_cosent(cosines * options.scale, scores)


def _of_multiple_negatives(unit: Sequence[torch.Tensor], scale: float) -> torch.Tensor:
    """Return how surprising each positive is among the positives and negatives of all rows, in nats."""
    import torch

    candidates = torch.cat([*unit[1:]])
    parts = []
    for rows in _groups(len(unit[0])):
        logits = scale * unit[0][rows] @ candidates.T
        own = torch.arange(rows.start, rows.start + len(logits), device=logits.device)
        parts.append(logits.logsumexp(dim=1) - logits.gather(1, own[:, None])[:, 0])
    return torch.cat(parts)


def _parts_of_cosent(scaled: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return each row's part of the loss log(1 + sum of exp(b - a)), over all a and b where a has the higher score.

    This loss is no mean over rows. The parts are its linear approximation in how much weight each row has; only their
    mean, which is the loss, is exact. A part may be negative.

    Args:
        scaled: scaled cosine of each row.
        scores: score of each row.
    """
    import torch

    count = len(scaled)
    as_higher, as_lower = [], torch.full_like(scaled, -torch.inf)
    for rows in _groups(count):
        wrong = (scaled[None, :] - scaled[rows, None]).masked_fill(scores[rows, None] <= scores[None, :], -torch.inf)
        as_higher.append(wrong.logsumexp(dim=1))
        as_lower = torch.logaddexp(as_lower, wrong.logsumexp(dim=0))
    both = torch.cat([*as_higher, as_lower])
    loss = torch.cat([both.new_zeros(1), both[:count]]).logsumexp(dim=0)
    shares = (both - loss).exp().view(2, count).mean(dim=0)
    return loss + 2 * (count * shares - shares.sum())


def _groups(count: int) -> Iterator[slice]:
    for start in range(0, count, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)
