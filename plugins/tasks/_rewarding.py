"""Ask for the rewards of answers, without letting a reward change anything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adapterzoo import PluginError, Problem
from adapterzoo.data_row import DataRow
from adapterzoo.rewards.contract import reward_of
from adapterzoo.rewards.registry import rewards
from adapterzoo.terminal import stdout_to_stderr

if TYPE_CHECKING:
    from adapterzoo_plugins.tasks._policy_losses import ReinforcementOptions


def rewards_of(answers: Sequence[str], rows: Sequence[DataRow], options: ReinforcementOptions) -> list[float]:
    """Return the weighted sum of the rewards of each answer.

    Raises:
        PluginError: a reward fails; the message names it and the row.
    """
    found = []
    with _apart():
        for answer, row in zip(answers, rows, strict=True):
            cells, total = _cells(row), 0.0
            for name, weight in options.rewards.items():
                try:
                    total += weight * reward_of(rewards()[name], answer, cells, options.reward_seconds)
                except PluginError as error:
                    raise PluginError(f"{error} ({row.place})") from None
            found.append(total)
    return found


def failures(rows: Sequence[DataRow], options: ReinforcementOptions) -> Iterator[Problem]:
    """Yield a problem for each reward that fails for a right or an empty answer to one of the rows."""
    for name in options.rewards:
        for row in rows:
            try:
                with _apart():
                    for answer in {row.completion, ""}:
                        reward_of(rewards()[name], answer, _cells(row), options.reward_seconds)
            except PluginError as error:
                hint = f"Correct it in {rewards().package(name)}, or correct the row."
                yield Problem(row.place or "task.rewards", f"{error}.", hint)
                break


def _cells(row: DataRow) -> dict[str, str]:
    return {name: str(value) for name, value in row.more}


@contextmanager
def _apart() -> Iterator[None]:
    """Undo in a ``with`` block what a reward does to random numbers, gradients and the standard output."""
    import torch

    with torch.random.fork_rng(), torch.no_grad(), stdout_to_stderr():
        yield
