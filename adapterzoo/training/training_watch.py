"""Count the steps of one training, and what they change, from inside the trainer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from transformers import TrainingArguments, get_scheduler

from adapterzoo.methods.rules import BETWEEN_STEPS, GRADIENT_NORM, LEARNING_RATE, OPTIMIZER, ROWS, SIZE, STEPS
from adapterzoo.training.tensors import checksum, leaves_of

if TYPE_CHECKING:
    from adapterzoo.training.fair_play import FairPlay

# Compare this many parameters, chosen at random, between one optimizer step and the next.
COMPARED = 4
# Accept a norm of the gradients this much above the recipe's limit, for rounding.
NORM_TOLERANCE = 1.01
# Accept that training changes this many numbers that it does not count, as a share of those that it counts. Some
# methods keep a number for each layer, such as the rank that is left.
UNCOUNTED = 0.01


class TrainingWatch:
    """Counts the steps of one training and what they change."""

    def __init__(self, fair_play: FairPlay, model: nn.Module, arguments: TrainingArguments, *, resumed: bool) -> None:
        self.fair_play = fair_play
        self.note = fair_play.note
        self.shown = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
        """the parameters that the table counts, by identity"""
        self.trained: dict[int, tuple[torch.Tensor, Any]] = {}
        """the tensors that get gradients, by identity, each with its checksum when it was first seen"""
        self.steps_wanted, self.batch_size = arguments.max_steps, arguments.train_batch_size
        self.may_skip_steps = arguments.fp16  # if a scaled gradient is infinite, no step is made
        self.limit = arguments.max_grad_norm or 0.0
        self.each_layer_steps = "layerwise" in str(arguments.optim)
        self.optimizer: Optimizer | None = None
        self.of_parts: Optimizer | None = None
        """the optimizer that steps parts of the weights, where :attr:`optimizer` stands for the whole weights"""
        self.settings: dict[str, Any] = {}
        self.rate = _rates(arguments)
        self.steps = self.other_steps = self.batches = 0
        self.largest_norm = 0.0
        self.collated: Counter[Any] = Counter()
        """checksums of the batches that were made of the recipe's rows and not trained on yet"""
        self.backward_passes: list[None] = []
        """an item for each backward pass"""
        # On resuming, the trainer loads the parameters after this.
        self.compared = [] if resumed else self._checksums(list(self.shown.values()))

    def state(self) -> dict[str, Any]:
        """Return what was counted and noted so far, for a checkpoint."""
        self._compare(self.steps)
        return {"counted": self._counts(), "departures": self.fair_play.departures}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned when a checkpoint was written."""
        counted = state["counted"]
        self.steps, self.batches = counted["optimizer_steps"], counted["batches"]
        self.backward_passes[:] = [None] * counted["backward_passes"]
        self.largest_norm = counted["largest_gradient_norm"]
        for rule, what in state["departures"].items():
            self.note(rule, what)

    def set_optimizer(self, optimizer: Optimizer, kind: type[Optimizer], settings: dict[str, Any]) -> None:
        """Note the optimizer of the training; the recipe's has this class and these settings."""
        self.optimizer = optimizer
        try:
            self.settings = {**kind([nn.Parameter(torch.zeros(1))], **settings).defaults}
        except Exception:  # some optimizers need the model, so what their settings mean is not known
            self.settings = {}
        if type(optimizer) is not kind or "step" in vars(optimizer):
            name = type(optimizer).__name__
            instead = f"a changed {name}" if name == kind.__name__ else name
            self.note(OPTIMIZER, f"trains with {instead} instead of the recipe's {kind.__name__}")

    def set_divided(self, whole: Optimizer, of_parts: Optimizer) -> None:
        """Note that an optimizer whose weights are whole lets another one step parts of them."""
        self.optimizer, self.of_parts = whole, of_parts

    def made(self, batch: dict[str, Any], rows: int) -> dict[str, Any]:
        """Remember a batch that was made of so many of the recipe's rows; return it."""
        if rows > self.batch_size:
            self.note(ROWS, f"trains on batches of {rows} rows; the recipe has {self.batch_size}")
        self.collated[batch_content(batch)] += 1
        return batch

    def taken(self, batch: dict[str, Any]) -> None:
        """Note if the trainer takes another batch than those that were made."""
        content = batch_content(batch)
        if not self.collated[content]:
            self.note(ROWS, f"trains on other rows than the recipe's in step {self.steps + 1}")
        self.collated[content] -= 1

    def other_tokens(self) -> None:
        """Note that the base model got other tokens than those of the batch."""
        self.note(ROWS, f"gives the base model other tokens than those of the batch, in step {self.steps + 1}")

    def computed(self, loss: torch.Tensor, batch: dict[str, Any], before: Any) -> None:
        """Count a batch whose loss was computed, and in the first and the last step look on which tensors it depends.

        Args:
            loss: the loss.
            batch: the batch.
            before: what :func:`batch_content` returned before the loss was computed.
        """
        self.batches += 1
        if batch_content(batch) != before:
            self.note(ROWS, f"changes the rows of a batch while it computes their loss, in step {self.steps + 1}")
        if not self.trained or self.steps >= self.steps_wanted - 1:
            self._see(leaves_of(loss))

    def before_step(self, optimizer: Optimizer) -> None:
        """Look at an optimizer that is about to make a step."""
        if optimizer is self.of_parts:
            return
        if self.optimizer is not None and optimizer is not self.optimizer:
            self.other_steps += 1
            return
        self._compare(self.steps)
        self.steps += 1
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            self.note(OPTIMIZER, "has hooks that run in each step of the optimizer, after its settings were looked at")
        rate = self.rate(self.steps - 1)
        parameters = []
        for group in optimizer.param_groups:
            parameters += [parameter for parameter in group["params"] if parameter.grad is not None]
            if rate is not None and group["params"] and abs(group["lr"] - rate) > 1e-6 * max(rate, 1e-12):
                self.note(
                    LEARNING_RATE, f"trains at {group['lr']:.3g} in step {self.steps}, where the recipe has {rate:.3g}"
                )
            for name, value in self.settings.items():
                if name in ("lr", "initial_lr") or group.get(name, value) == value:
                    continue
                # The trainer's own groups have no weight decay for biases and norms.
                if name != "weight_decay" or group[name] != 0:
                    self.note(
                        OPTIMIZER, f"trains with {name} {group[name]} in step {self.steps}; the recipe has {value}"
                    )
        self._see(parameters)
        if not parameters and not self.each_layer_steps and self.of_parts is None:
            self.note(STEPS, f"takes away all gradients before step {self.steps}")
        if parameters:
            self.note_norm(float(nn.utils.get_total_norm([parameter.grad for parameter in parameters])))

    def note_norm(self, norm: float) -> None:
        """Note the norm of the gradients with which a step is made."""
        self.largest_norm = max(self.largest_norm, norm)
        if 0 < self.limit * NORM_TOLERANCE < norm:
            what = f"makes step {self.steps} with gradients of norm {norm:.3g}; the recipe's limit is {self.limit:g}"
            self.note(GRADIENT_NORM, what)

    def after_step(self, optimizer: Optimizer) -> None:
        """Remember some parameters after a step, to see whether they change before the next one."""
        if optimizer is self.optimizer:
            shown = list(self.shown.values())
            # The step decides which, so that a resumed training compares the same ones.
            chosen = random.Random(self.steps).sample(shown, min(COMPARED, len(shown)))
            self.compared = self._checksums(chosen)

    def end(self) -> None:
        """Compare the counts with the recipe's when the training has ended."""
        self._compare(self.steps)
        self.fair_play.counted |= self._counts()
        if self.other_steps and not self.each_layer_steps:
            self.note(STEPS, f"makes {self.other_steps} steps with an optimizer beside that of the training")
        elif self.steps > self.steps_wanted or (self.steps < self.steps_wanted and not self.may_skip_steps):
            self.note(STEPS, f"makes {self.steps} optimizer steps; the recipe has {self.steps_wanted}")
        elif len(self.backward_passes) > self.batches:
            self.note(STEPS, f"computes gradients {len(self.backward_passes)} times for {self.batches} batches")

    def compare_size(self, changed: Sequence[torch.Tensor]) -> None:
        """Note numbers that are trained and not counted.

        Args:
            changed: the tensors of the model and of the method that are not the same as before training.
        """
        # A tensor with a gradient need not be trained: gradient checkpointing gives the output of the embedding one.
        changed = [*changed, *(tensor for tensor, before in self.trained.values() if checksum(tensor) != before)]
        hidden = {id(tensor): tensor for tensor in changed if id(tensor) not in self.shown}
        shown, more = (sum(tensor.numel() for tensor in group.values()) for group in (self.shown, hidden))
        self.fair_play.counted["trained_numbers"] = shown + more
        if more > UNCOUNTED * shown:
            self.note(SIZE, f"changes {more:,} numbers in training beside the {shown:,} that it shows as trained")

    def _see(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self.trained:
                self.trained[id(tensor)] = tensor, checksum(tensor)

    def _counts(self) -> dict[str, float]:
        return {
            "optimizer_steps": self.steps,
            "batches": self.batches,
            "backward_passes": len(self.backward_passes),
            "largest_gradient_norm": self.largest_norm,
        }

    def _compare(self, step: int) -> None:
        """Note whether parameters have changed since they were remembered after a step."""
        # A parameter that is divided has no content while it is not used.
        if any(parameter.numel() and checksum(parameter) != before for parameter, before in self.compared):
            when = f"after step {step}" if step else "before the first step"
            self.note(BETWEEN_STEPS, f"changes parameters outside of the optimizer's steps, {when}")

    @staticmethod
    def _checksums(parameters: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, Any]]:
        return [(parameter, checksum(parameter)) for parameter in parameters if parameter.numel()]


def batch_content(batch: dict[str, Any]) -> tuple[Any, ...]:
    """Return a checksum of each tensor of a batch, by name."""
    return tuple((name, checksum(value)) for name, value in batch.items() if isinstance(value, torch.Tensor))


def _rates(arguments: TrainingArguments) -> Callable[[int], float | None]:
    """Return a function that gives the recipe's learning rate for a step; None if it depends on the losses."""
    rate = arguments.learning_rate
    scheduler = get_scheduler(
        arguments.lr_scheduler_type,
        SGD([nn.Parameter(torch.zeros(1))], lr=rate),
        num_warmup_steps=arguments.get_warmup_steps(arguments.max_steps),
        num_training_steps=arguments.max_steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    if not hasattr(scheduler, "lr_lambdas"):
        return lambda step: None
    (factor,) = scheduler.lr_lambdas
    return lambda step: rate * factor(step)
