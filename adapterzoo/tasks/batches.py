"""Give methods the training rows of any task in batches, but no other rows."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from adapterzoo.tasks.examples import Examples


def sealed(examples: Examples) -> bytes:
    """Return a copy of the training examples that cannot be changed."""
    return pickle.dumps(examples.training_only())


@contextmanager
def hidden_rows(examples: Examples, *, keep_validation: bool = False) -> Iterator[None]:
    """Take the test rows and validation rows out of the memory of this process while a method's code runs.

    Otherwise a method could find them among the variables of its callers, or among all objects of the process.

    Args:
        examples: the examples, which get their rows back afterwards.
        keep_validation: whether to keep the validation rows, because training measures on them.
    """
    names = ["test"] if keep_validation else ["test", "validation"]
    kept = {name: pickle.dumps(getattr(examples, name)) for name in names}
    for name in names:
        getattr(examples, name).clear()
    try:
        yield
    finally:
        for name, rows in kept.items():
            getattr(examples, name)[:] = pickle.loads(rows)


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
        order = random.Random(seed).sample(range(len(copy.train)), len(copy.train))
        for start in range(0, len(order), size):
            yield copy.collate([copy.train[position] for position in order[start : start + size]])

    return batches
