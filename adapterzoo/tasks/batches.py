"""Give methods the training rows of any task in batches, but no other rows."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

from adapterzoo.tasks.examples import Examples


def sealed(examples: Examples) -> bytes:
    """Return a copy of the training examples that cannot be changed."""
    return pickle.dumps(examples.training_only())


def shuffled_batches(examples: bytes, size: int, seed: int) -> Callable[[], Iterator[dict[str, Any]]]:
    """Return a function that yields batches of all training rows once, in an order that depends on the seed alone.

    Methods get this function. Through it they can reach these rows only, and not the test rows.

    Args:
        examples: what :func:`sealed` returned.
        size: number of rows in a batch.
        seed: seed of the order.
    """

    def batches() -> Iterator[dict[str, Any]]:
        copy: Examples = pickle.loads(examples)
        shuffled = random.Random(seed).sample(copy.train, len(copy.train))
        for start in range(0, len(shuffled), size):
            yield copy.collate(shuffled[start : start + size])

    return batches
