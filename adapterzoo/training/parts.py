"""Divide each batch among the ranks that train one model together, so that they make the steps of one process.

A loss of a batch is a mean over its learned tokens or its rows. The whole batch's is the sum of the losses of its
parts, each multiplied by its share of these tokens or rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adapterzoo.machine import ranks
from adapterzoo.tasks.examples import Examples
from adapterzoo.tokens.batches import IGNORED
from adapterzoo.training.tensors import checksum

WEIGHT = "weight_of_part"
"""entry of a batch: the number of its learned tokens or rows"""

IGNORED_BY_DDP = "_ddp_params_and_buffers_to_ignore"


class Parts:
    """Makes this rank's parts of batches, and knows their shares."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self._factors = deque[tuple[float, float]]()

    def batch(self, rows: Sequence[Any], prefix: Any) -> dict[str, Any]:
        """Return this rank's part of a batch; if there are fewer rows than ranks, it may be one row of no weight."""
        if ranks.count() == 1:
            return self.examples.collate(rows, prefix=prefix)
        own = range(ranks.number(), len(rows), ranks.count())
        batch = self._collated(rows, own or range(1), prefix)
        batch[WEIGHT] = torch.tensor([self._weight(batch) if own else 0])
        return batch

    def _collated(self, rows: Sequence[Any], own: Sequence[int], prefix: Any) -> dict[str, Any]:
        """Return the rows with these numbers as a batch, padded as the whole batch is if the loss reads the padding."""
        if not self.examples.loss_reads_padding:
            return self.examples.collate([rows[index] for index in own], prefix=prefix)
        return {name: values[list(own)] for name, values in self.examples.collate(rows, prefix=prefix).items()}

    def weigh(self, batches: Sequence[dict[str, Any]]) -> float:
        """Take the weights out of the batches of a step, and keep what :meth:`next_factors` returns.

        Returns:
            The weight of all batches on all ranks.
        """
        if ranks.count() == 1:
            # The trainer itself weighs tokens, and a batch that is a whole step has nothing beside it.
            alike = self.examples.trainer_computes_loss or len(batches) == 1
            weights = totals = [1.0 if alike else float(self._weight(batch)) for batch in batches]
        else:
            weights = [float(batch.pop(WEIGHT)) for batch in batches]
            totals = ranks.totals(weights)
        whole = sum(totals)
        for own, all_ranks in zip(weights, totals, strict=True):
            # In a batch without any learned token, all parts are alike.
            share = own / all_ranks if all_ranks else 1 / ranks.count()
            self._factors.append((share, all_ranks * len(batches) / whole if whole else 1.0))
        return whole

    def next_factors(self) -> tuple[float, float]:
        """Return two factors for the next batch: this rank's share of it, and how much it counts in its step.

        The second is how many times as many learned tokens or rows it has as the mean batch of the step, so that each
        of them counts the same, as in one large batch.
        """
        return self._factors.popleft()

    def _weight(self, batch: dict[str, Any]) -> int:
        if self.examples.loss_unit is None:
            return 1
        if self.examples.loss_unit == "rows":
            return len(batch["input_ids"])  # each row has as many texts as another
        labels: torch.Tensor = batch.get("shift_labels", batch["labels"])
        if self.examples.trainer_computes_loss and "shift_labels" not in batch:
            labels = labels[..., 1:]
        return int((labels != IGNORED).sum())


@contextmanager
def sent_once(model: nn.Module) -> Iterator[None]:
    """Keep DDP from sending those frozen parameters and buffers to all ranks that are alike on all of them."""
    if ranks.count() == 1:
        yield
        return
    frozen = {
        **{name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad},
        **dict(model.named_buffers()),
    }
    sums = ranks.gathered({name: checksum(tensor) for name, tensor in frozen.items()})
    alike = [name for name in frozen if all(rank.get(name) == sums[0].get(name) for rank in sums)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, alike)
    try:
        yield
    finally:
        vars(model).pop(IGNORED_BY_DDP, None)
