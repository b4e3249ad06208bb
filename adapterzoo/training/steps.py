"""Count the optimizer steps of a training."""

from __future__ import annotations

import math

from adapterzoo.recipe.schema import TrainSection


def total_steps(train: TrainSection, rows: int, smallest_batch: int = 1) -> int:
    """Return the number of optimizer steps of the whole training.

    Args:
        train: the recipe's ``train`` section.
        rows: number of training rows.
        smallest_batch: see :attr:`adapterzoo.tasks.examples.Examples.smallest_batch`.
    """
    if train.steps is not None:
        return train.steps
    assert train.epochs is not None
    batches = math.ceil(rows / train.batch_size) - drops_last_batch(train, rows, smallest_batch)
    # The trainer begins an epoch with a new batch and a new step, also if the last ones were not full.
    steps = math.ceil(batches / train.gradient_accumulation)
    return max(1, math.ceil(train.epochs * steps))


def drops_last_batch(train: TrainSection, rows: int, smallest_batch: int) -> bool:
    """Tell whether each epoch goes without its last batch, because it is too small for the loss to teach anything."""
    return 0 < rows % train.batch_size < smallest_batch


def in_steps(value: int | float, steps: int) -> int:
    """Return a number of steps; if the value is a float, it is a share of all steps."""
    return value if isinstance(value, int) else math.ceil(value * steps)
