"""Measure whether embeddings find the right texts: hit@1 and nDCG@10."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

RANKS = 10  # nDCG counts this many texts of a ranking


class Ranked(NamedTuple):
    """The result of one search."""

    found: str
    """the text that is most like the query; of several, one that is wrong"""
    hit: bool
    """whether a right text is more like the query than every wrong one"""
    ndcg: float
    """normalised discounted cumulative gain of the first texts (Järvelin and Kekäläinen, 2002)"""


def ranked(rows: Sequence[tuple[str, ...]], embeddings: Mapping[str, torch.Tensor]) -> list[Ranked]:
    """Search for each row's first text among the other texts of all rows.

    The texts that are right for a query are the second ones of all rows that begin with this query. The query itself is
    not searched. A wrong text that is as near as a right one comes first, so that a model with the same embedding for
    all texts finds nothing.

    Args:
        rows: anchor, positive and perhaps negative of each row.
        embeddings: embedding of each text, of length 1.
    """
    import torch

    relevant: dict[str, set[str]] = {}
    for anchor, positive, *_ in rows:
        relevant.setdefault(anchor, set()).add(positive)
    candidates = list(dict.fromkeys(text for row in rows for text in row[1:]))
    matrix = torch.stack([embeddings[text] for text in candidates])
    answers = {
        query: _search(query, right, candidates, matrix @ embeddings[query]) for query, right in relevant.items()
    }
    return [answers[row[0]] for row in rows]


def _search(query: str, right: set[str], candidates: Sequence[str], cosines: torch.Tensor) -> Ranked:
    """Return how the texts that are right for a query are ranked among all candidates."""
    near = [
        (-cosine, text in right, text)
        for text, cosine in zip(candidates, cosines.tolist(), strict=True)
        if text != query
    ]
    order = sorted(near, key=lambda entry: entry[:2])  # of two that are as near, the wrong one (False) comes first
    gain = sum(1 / math.log2(rank + 1) for rank, (_, is_right, _) in enumerate(order[:RANKS], start=1) if is_right)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(right), RANKS) + 1))
    return Ranked(order[0][2], order[0][1], gain / best)
