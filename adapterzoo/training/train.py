"""Train one wrapped model in place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from adapterzoo.errors import NotFiniteError
from adapterzoo.machine import ranks, stopping
from adapterzoo.machine.stopping import StoppedError
from adapterzoo.recipe.schema import TrainSection
from adapterzoo.recipe.train import ZERO_STAGES
from adapterzoo.tasks.examples import Examples
from adapterzoo.tokens.shared_prefix import SharedPrefix
from adapterzoo.training import arguments as training_arguments
from adapterzoo.training import checkpoints
from adapterzoo.training.fair_play import FairPlay
from adapterzoo.training.method_part import MethodPart
from adapterzoo.training.steps import drops_last_batch, total_steps
from adapterzoo.training.trainer import TaskTrainer

LOGS = "logs"
OnStep = Callable[[int, int, float, int], None]
"""is called with the step, the number of steps in all, the loss, and the number of tokens seen so far"""


@dataclass(frozen=True)
class Trained:
    """The measurements of one finished training; the weights are in the model."""

    seconds: float
    tokens: int
    """number of tokens that went through the model, without padding"""
    history: list[dict[str, float]]
    """losses and learning rates by step"""
    positions_per_token: float | None
    """positions computed for each token: above 1 with padding, below 1 with a shared prefix; None if a checkpoint held
    the finished training"""


def train_adapter(
    model: Any,
    encoded: Examples,
    settings: TrainSection,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
    part: MethodPart,
    prefix: SharedPrefix | None = None,
    fair_play: FairPlay | None = None,
    on_step: OnStep = lambda step, steps, loss, tokens: None,
    say: Callable[[str], None] = lambda message: None,
) -> Trained:
    """Train a wrapped model in place.

    The order of the rows depends on the seed alone, so it is the same for every method.

    Args:
        model: the wrapped model.
        encoded: the training rows and validation rows.
        settings: the recipe's ``train`` section.
        learning_rate: the cell's learning rate.
        seed: the cell's seed.
        folder: folder for checkpoints.
        part: the method's functions that the training calls.
        prefix: joins rows that begin with the same tokens into one sequence; None if rows are padded.
        fair_play: notes where the method departs from the rules of the comparison.
        on_step: is called after every step.
        say: is called with a sentence if a checkpoint cannot be used.

    Raises:
        NotFiniteError: the loss or the gradient became NaN or infinite.
    """
    rows, smallest = len(encoded.training_rows), encoded.smallest_batch
    steps = total_steps(settings, rows, smallest)
    encoded.check_model(model)
    fp16 = _scales_gradients(model)
    arguments = training_arguments.arguments(settings, steps, learning_rate, seed, folder, fp16=fp16)
    arguments.dataloader_drop_last = drops_last_batch(settings, rows, smallest)
    # Rank 0 has just prepared the folder, and may remove checkpoints there.
    checkpoint = ranks.agreed(lambda: checkpoints.newest(folder, wanted=part.resumes, say=say))
    # The training before the checkpoint counts as training time.
    seconds_before = checkpoint.seconds if checkpoint else 0.0
    trainer = _trainer_of(settings)(
        model=model,
        args=arguments,
        train_dataset=copy(encoded.training_rows),  # a copy, because a method may change the order of the rows
        eval_dataset=encoded.validation,
        callbacks=[*part.callbacks, _StepCallback(on_step, seconds_before, settings.save_limit)],
        examples=encoded,
        prefix=prefix,
        part=part,
        sharding=settings.sharding,
    )
    trainer.keep_logs_in(folder.parent / LOGS)
    return _measured(trainer, trainer.train_watched(fair_play or FairPlay(), checkpoint))


def _trainer_of(settings: TrainSection) -> type[TaskTrainer]:
    """Return the class of the trainer; a probe is one process, whatever the recipe says."""
    if settings.sharding not in ZERO_STAGES or ranks.count() == 1:
        return TaskTrainer
    from adapterzoo.training.zero_trainer import ZeroTrainer

    return ZeroTrainer


def _measured(trainer: TaskTrainer, seconds: float) -> Trained:
    """Return the measurements of a trainer that has finished after some seconds."""
    return Trained(
        seconds=seconds,
        tokens=int(trainer.state.num_input_tokens_seen),
        history=[_kept(entry) for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry],
        positions_per_token=trainer.positions / float(trainer.tokens) if trainer.positions else None,
    )


class _StepCallback(TrainerCallback):  # type: ignore[misc]
    """A callback that reports each step, stops if its loss is not finite, and completes each checkpoint."""

    def __init__(self, on_step: OnStep, seconds_before: float, save_limit: int) -> None:
        self.on_step = on_step
        self.save_limit = save_limit
        self.stops = False
        """whether training stops after the present step, because the user wants it"""
        self._begun = time.perf_counter() - seconds_before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The signal reaches one rank, and all have to stop after the same step.
        self.stops = any(ranks.totals([bool(stopping.asked())]))
        control.should_save = control.should_save or self.stops

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        if ranks.number() == 0:
            checkpoints.complete(folder / f"checkpoint-{state.global_step}", time.perf_counter() - self._begun)
            checkpoints.keep_newest(folder, self.save_limit)
        if self.stops:
            ranks.wait()  # until the checkpoint is complete
            raise StoppedError

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise NotFiniteError(f"the {name.replace('_', ' ')} became {logs[name]} at step {state.global_step}")
        self.on_step(state.global_step, state.max_steps, logs["loss"], int(state.num_input_tokens_seen))


def _scales_gradients(model: Any) -> bool:
    """Tell whether gradients need scaling, as they do with float16 on a GPU."""
    device = next(model.parameters()).device
    return bool(getattr(model, "dtype", None) == torch.float16 and device.type == "cuda")


def _kept(entry: dict[str, Any]) -> dict[str, float]:
    names = ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "epoch")
    return {name: float(entry[name]) for name in names if name in entry}
