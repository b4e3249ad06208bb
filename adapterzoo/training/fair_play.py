"""Watch what a method does while it is wrapped and trained, and note where it departs from the rules of the comparison.

A row of the table says something about a method only if everything else is as the recipe says: the same number of
steps, the same learning rate, the same rows. A method is code, and its code could train on more. So these things are
counted here, outside of its code.
"""

from __future__ import annotations

import gc
import pickle
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import TrainingArguments, get_scheduler

from adapterzoo.digests import new_digest
from adapterzoo.methods.contract import (
    BEFORE_TRAINING,
    BETWEEN_STEPS,
    GRADIENT_NORM,
    LEARNING_RATE,
    OPTIMIZER,
    ROWS,
    SIZE,
    STEPS,
    Context,
    Method,
)
from adapterzoo.tasks.examples import Examples

# Compare this many parameters, chosen at random, between one optimizer step and the next.
COMPARED = 4
# Accept a norm of the gradients this much above the recipe's limit, for rounding.
NORM_TOLERANCE = 1.01
# Accept that training changes this many numbers that it does not count, as a share of those that it counts. Some
# methods keep a number for each layer, such as the rank that is left.
UNCOUNTED = 0.01


class FairPlay:
    """Watches the wrapping and the training of one cell."""

    def __init__(self, method: Method[Any] | None = None) -> None:
        self.method = method
        self.departures: dict[str, str] = {}
        """rule -> what the method does instead"""
        self.counted: dict[str, float] = {}
        """what was counted: name -> number"""

    def record(self) -> dict[str, Any]:
        """Return the fields of a result that say which rules the method kept."""
        declared = self.method.departs_from if self.method else ()
        return {
            "broken_rules": {rule: what for rule, what in self.departures.items() if rule not in declared},
            "declared_departures": {rule: what for rule, what in self.departures.items() if rule in declared},
            "counted": self.counted,
        }

    def note(self, rule: str, what: str) -> None:
        """Note a departure from a rule; of several departures from one rule, the first stays."""
        self.departures.setdefault(rule, what)

    @contextmanager
    def wrapping(self, context: Context) -> Iterator[Context]:
        """Watch a method while it wraps a model; yield the context that counts the batches which the method reads."""
        read = 0

        def batches() -> Iterator[dict[str, Any]]:
            nonlocal read
            for batch in context.batches():
                read += 1
                yield batch

        steps: list[Optimizer] = []
        with _counting_backward_passes() as backward_passes, _optimizer_steps(before=steps.append):
            yield replace(context, batches=batches)
        self.counted["batches_read_before_training"] = read
        if steps:
            self.note(BEFORE_TRAINING, f"makes {len(steps)} optimizer steps before training begins")
        elif backward_passes:
            self.note(BEFORE_TRAINING, f"computes gradients {len(backward_passes)} times before training begins")
        if read and not (self.method and self.method.reads_data):
            self.note(ROWS, f"reads {read} batches of training rows before training, and does not declare reads_data")

    @contextmanager
    def training(
        self, model: nn.Module, examples: Examples, arguments: TrainingArguments, *, done: int, roots: Sequence[Any]
    ) -> Iterator[TrainingWatch]:
        """Watch a method while its model is trained.

        Args:
            model: the wrapped model.
            examples: the rows.
            arguments: the trainer's arguments.
            done: number of steps that were done before, if training is resumed.
            roots: other objects of the method's that may hold tensors, such as its callbacks.
        """
        watch = TrainingWatch(self, model, arguments, done)
        settings, rows = arguments.to_dict(), _rows_digest(examples)
        roots = (model, *roots, *_belongings(self.method))
        checksums = [(tensor, _checksum(tensor)) for tensor in _reachable_tensors(roots)]
        with (
            _counting_backward_passes() as backward_passes,
            _optimizer_steps(before=watch.before_step, after=watch.after_step),
        ):
            yield watch
        watch.end(len(backward_passes))
        changed = [tensor for tensor, before in checksums if _checksum(tensor) != before]
        watch.compare_size(changed)
        after = arguments.to_dict()
        if different := sorted(name for name, value in settings.items() if after.get(name) != value):
            self.note(STEPS, f"changes the settings of the training: {', '.join(different)}")
        if _rows_digest(examples) != rows:
            self.note(ROWS, "changes the training rows")


class TrainingWatch:
    """Counts the steps of one training and what they change."""

    def __init__(self, fair_play: FairPlay, model: nn.Module, arguments: TrainingArguments, done: int) -> None:
        self.note = fair_play.note
        self.counted = fair_play.counted
        self.shown = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
        """the parameters that the table counts, by identity"""
        self.trained: dict[int, torch.Tensor] = {}
        """the tensors that get gradients, by identity"""
        self.steps_wanted = arguments.max_steps - done
        self.may_skip_steps = arguments.fp16  # if a scaled gradient is infinite, no step is made
        self.limit = arguments.max_grad_norm or 0.0
        self.each_layer_steps = "layerwise" in str(arguments.optim)
        self.optimizer: Optimizer | None = None
        self.settings: dict[str, Any] = {}
        self.done, self.rate = done, _rates(arguments)
        self.random = random.Random(0)
        self.steps = self.other_steps = self.batches = 0
        self.largest_norm = 0.0
        # On resuming, the trainer loads the parameters after this.
        self.compared = [] if done else self._checksums(list(self.shown.values()))

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

    def batch(self, loss: torch.Tensor) -> None:
        """Count a batch, and in the first and the last step look which tensors its loss depends on."""
        self.batches += 1
        if not self.trained or self.steps >= self.steps_wanted - 1:
            self.trained.update((id(leaf), leaf) for leaf in _leaves(loss))

    def before_step(self, optimizer: Optimizer) -> None:
        """Look at an optimizer that is about to make a step."""
        if self.optimizer is not None and optimizer is not self.optimizer:
            self.other_steps += 1
            return
        self.steps += 1
        self._compare()
        rate = self.rate(self.done + self.steps - 1)
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
        self.trained.update((id(parameter), parameter) for parameter in parameters)
        if parameters:
            norm = float(nn.utils.get_total_norm([parameter.grad for parameter in parameters]))
            self.largest_norm = max(self.largest_norm, norm)
            if 0 < self.limit * NORM_TOLERANCE < norm:
                what = (
                    f"makes step {self.steps} with gradients of norm {norm:.3g}; the recipe's limit is {self.limit:g}"
                )
                self.note(GRADIENT_NORM, what)

    def after_step(self, optimizer: Optimizer) -> None:
        """Remember some parameters after a step, to see whether they change before the next one."""
        if optimizer is self.optimizer:
            shown = list(self.shown.values())
            self.compared = self._checksums(self.random.sample(shown, min(COMPARED, len(shown))))

    def end(self, backward_passes: int) -> None:
        """Compare the counts with the recipe's when the training has ended."""
        self._compare()
        self.counted |= {
            "optimizer_steps": self.steps,
            "batches": self.batches,
            "backward_passes": backward_passes,
            "largest_gradient_norm": self.largest_norm,
        }
        if self.other_steps and not self.each_layer_steps:
            self.note(STEPS, f"makes {self.other_steps} steps with an optimizer beside that of the training")
        elif self.steps > self.steps_wanted or (self.steps < self.steps_wanted and not self.may_skip_steps):
            self.note(STEPS, f"makes {self.steps} optimizer steps; the recipe has {self.steps_wanted}")
        elif backward_passes > self.batches:
            self.note(STEPS, f"computes gradients {backward_passes} times for {self.batches} batches")

    def compare_size(self, changed: Sequence[torch.Tensor]) -> None:
        """Note numbers that are trained and not counted.

        Args:
            changed: the tensors of the model and of the method that are not the same as before training.
        """
        hidden = {key: tensor for key, tensor in self.trained.items() if key not in self.shown}
        hidden |= {id(tensor): tensor for tensor in changed if id(tensor) not in self.shown}
        shown, more = (sum(tensor.numel() for tensor in group.values()) for group in (self.shown, hidden))
        self.counted["trained_numbers"] = shown + more
        if more > UNCOUNTED * shown:
            self.note(SIZE, f"changes {more:,} numbers in training beside the {shown:,} that it shows as trained")

    def _compare(self) -> None:
        """Note whether parameters have changed since they were remembered."""
        if any(_checksum(parameter) != before for parameter, before in self.compared):
            when = f"before step {self.steps}" if self.steps <= self.steps_wanted else "after the last step"
            self.note(BETWEEN_STEPS, f"changes parameters outside of the optimizer's steps, {when}")
        self.compared = []

    @staticmethod
    def _checksums(parameters: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, Any]]:
        return [(parameter, _checksum(parameter)) for parameter in parameters]


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


@contextmanager
def _counting_backward_passes() -> Iterator[list[None]]:
    """Yield a list that gets an item for each backward pass, whichever function of torch started it."""
    counted: list[None] = []
    run = torch.autograd._engine_run_backward

    def counting(*arguments: Any, **named: Any) -> Any:
        counted.append(None)
        return run(*arguments, **named)

    torch.autograd._engine_run_backward = counting
    try:
        yield counted
    finally:
        torch.autograd._engine_run_backward = run


@contextmanager
def _optimizer_steps(
    before: Callable[[Optimizer], None], after: Callable[[Optimizer], None] = lambda optimizer: None
) -> Iterator[None]:
    """Call functions before and after each step of any optimizer."""
    handles = (
        register_optimizer_step_pre_hook(lambda optimizer, *_: before(optimizer)),
        register_optimizer_step_post_hook(lambda optimizer, *_: after(optimizer)),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """Return all tensors that get a gradient from a loss, wherever they are kept."""
    leaves, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            leaves.append(function.variable)
        waiting += [following for following, _ in function.next_functions]
    return leaves


def _belongings(method: Method[Any] | None) -> list[Any]:
    """Return where a method may keep something outside of the model: itself, its classes, and its module."""
    if method is None:
        return []
    classes = [
        kind for kind in type(method).__mro__ if kind.__module__.partition(".")[0] not in ("adapterzoo", "typing")
    ]
    modules = [vars(sys.modules[kind.__module__]) for kind in classes if kind.__module__ in sys.modules]
    return [method, *(dict(vars(kind)) for kind in classes), *(dict(module) for module in modules)]


def _reachable_tensors(roots: Sequence[Any]) -> list[torch.Tensor]:
    """Return all tensors to which references lead from some objects: attributes, items, closures, bound methods."""
    globals_of_modules = {id(vars(module)) for module in list(sys.modules.values()) if hasattr(module, "__dict__")}
    tensors, seen, waiting = [], set(), list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or id(value) in globals_of_modules or isinstance(value, (type, type(sys), str, bytes)):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        waiting += gc.get_referents(value)
    return tensors


def _checksum(tensor: torch.Tensor) -> Any:
    """Return a number that changes when the content of a tensor does. It is as fast as reading the tensor."""
    if tensor.is_meta or tensor.numel() == 0:
        return tuple(tensor.shape)
    if tensor.is_sparse or tensor.is_quantized:
        return tensor._version
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = content.numel() // 8 * 8
    # Sums of integers do not depend on their order, so they are the same for any number of threads.
    total = int(content[:whole].view(torch.int64).sum()) if content.data_ptr() % 8 == 0 else int(content[:whole].sum())
    return total, int(content[whole:].sum()), tuple(tensor.shape), tensor.dtype


def _rows_digest(examples: Examples) -> str:
    """Return a digest of the training rows."""
    digest = new_digest()
    digest.update(pickle.dumps(examples.training_only()))
    return str(digest.hexdigest())
