"""Train a method by two processes that divide its batches, and compare that with a training by one."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.differences import describe_error
from adapterzoo.conformance.thorough import MAX_ROUNDING
from adapterzoo.conformance.trial import Trial
from adapterzoo.conformance.variants import few
from adapterzoo.machine import ranks, settling
from adapterzoo.machine.processes import Send, in_processes, wait_for_any
from adapterzoo.machine.rank_processes import FAILED, forked_ranks

if TYPE_CHECKING:
    from adapterzoo.model.base import Base
    from adapterzoo.recipe.schema import TrainSection

RANKS = 2
LIMIT_SECONDS = 120.0
TOLERANCE = 1e-4
"""accepted difference of a loss"""

Losses = list[float]


def distributed_problem(trial: Trial, base: Base, settings: TrainSection, sharding: str) -> str | None:
    """Return what is different if two processes train a method; None if their losses are those of one process.

    How much rounding is amplified, and what the random numbers of a method that draws some change, is seen from a
    training whose batches have the same rows in another order.

    Args:
        trial: the method with its default options.
        base: the base model.
        settings: the usual settings.
        sharding: value of ``train.sharding``.
    """
    rows = len(trial.rows.train)
    settings = few(settings).model_copy(update={"batch_size": rows})
    if settings.eval_steps:  # measure once, after the last step
        settings = settings.model_copy(update={"eval_steps": settings.steps})
    alone = _alone(trial, f"alone-{sharding}", base, settings)
    together = settings.model_copy(update={"devices": RANKS, "sharding": sharding})
    found = _by_ranks(trial.other(f"together-{sharding}"), base, together)
    if isinstance(found, str):
        return found
    gap = _gap(alone, found)
    if gap <= TOLERANCE:
        return None
    reordered = replace(trial.rows, train=trial.rows.train[::-1])
    order = _gap(alone, _alone(trial, f"reordered-{sharding}", base, settings, reordered))
    return None if gap <= MAX_ROUNDING * order else f"its losses differ by {gap:.1g} from those of one process"


def _gap(first: Losses, second: Losses) -> float:
    return max(abs(mine - theirs) for mine, theirs in zip(first, second, strict=True))


def _alone(trial: Trial, folder: str, base: Base, settings: TrainSection, rows: Any = None) -> Losses:
    """Return the losses of a training by one process, which is another one than this."""
    work = partial(_losses, trial.other(folder, rows=rows), base, settings)
    (losses,) = in_processes([work], 1, 1, LIMIT_SECONDS)
    if isinstance(losses, Exception):
        raise losses
    return list(losses)


def _by_ranks(trial: Trial, base: Base, settings: TrainSection) -> Losses | str:
    """Return the losses of a training by two processes, or why it failed."""
    process, begun = forked_ranks(RANKS, partial(_send_losses, trial, base, settings), 1), time.monotonic()
    answers: list[Any] = []
    try:
        while process.alive and time.monotonic() < begun + LIMIT_SECONDS:
            wait_for_any([process])
            answers += process.messages()
        answers += process.messages()
        late = f"it took longer than {LIMIT_SECONDS:.0f} seconds" if process.alive else None
        losses: Losses | str = answers[0] if answers else late or process.failure() or "its processes sent nothing"
        return losses
    finally:
        process.kill()


def _send_losses(trial: Trial, base: Base, settings: TrainSection, send: Send) -> None:
    try:
        ranks.join()
        if settings.weight_parts > 1:
            base.divide()
        send(_losses(trial, base, settings))
    except (Exception, SystemExit) as error:  # the method under test may raise anything
        settling.wait_if_lost(error)
        send(describe_error(error) if ranks.number() == 0 else (FAILED, describe_error(error)))


def _losses(trial: Trial, base: Base, settings: TrainSection) -> Losses:
    """Train a method; return the loss of each step, and the last one on validation rows if they are measured."""
    with base.borrow() as model:
        _, history = trial.train(trial.wrap(model), settings)
    return [step[name] for step in history for name in ("loss", "eval_loss") if name in step]
