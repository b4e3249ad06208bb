"""Watch what a method does while it is wrapped and trained, and note where it departs from the rules of the comparison.

A row of the table says something about a method only if everything else is as the recipe says: the same number of
steps, the same learning rate, the same rows. A method is code, and its code could train on more. So these things are
counted here, outside of its code.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import TrainingArguments

from adapterzoo.digests import new_digest
from adapterzoo.methods.contract import Context, Method
from adapterzoo.methods.rules import BEFORE_TRAINING, ROWS, STEPS
from adapterzoo.tasks.examples import Examples
from adapterzoo.training.tensors import checksum, reachable_tensors
from adapterzoo.training.tokens_watch import watched_tokens
from adapterzoo.training.training_watch import TrainingWatch


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
        self, model: nn.Module, examples: Examples, arguments: TrainingArguments, *, resumed: bool, roots: Sequence[Any]
    ) -> Iterator[TrainingWatch]:
        """Watch a method while its model is trained.

        Args:
            model: the wrapped model.
            examples: the rows.
            arguments: the trainer's arguments.
            resumed: whether training goes on from a checkpoint.
            roots: other objects of the method's that may hold tensors, such as its callbacks.
        """
        watch = TrainingWatch(self, model, arguments, resumed=resumed)
        settings, rows = arguments.to_dict(), _rows_digest(examples)
        roots = (model, *roots, *_belongings(self.method))
        checksums = [(tensor, checksum(tensor)) for tensor in reachable_tensors(roots)]
        with (
            _counting_backward_passes() as watch.backward_passes,
            _optimizer_steps(before=watch.before_step, after=watch.after_step),
            watched_tokens(model, watch.other_tokens),
        ):
            yield watch
        watch.end()
        changed = [tensor for tensor, before in checksums if checksum(tensor) != before]
        watch.compare_size(changed)
        after = arguments.to_dict()
        if different := sorted(name for name, value in settings.items() if after.get(name) != value):
            self.note(STEPS, f"changes the settings of the training: {', '.join(different)}")
        if _rows_digest(examples) != rows:
            self.note(ROWS, "changes the training rows")


@contextmanager
def _counting_backward_passes() -> Iterator[list[None]]:
    """Yield a list that gets an item for each backward pass, whichever function of torch started it."""
    counted: list[None] = []
    run = torch.autograd._engine_run_backward

    def counting(outputs: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        if not any(map(is_fake, outputs)):  # torch.compile goes backward through tensors without numbers
            counted.append(None)
        return run(outputs, *arguments, **named)

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


def _belongings(method: Method[Any] | None) -> list[Any]:
    """Return where a method may keep something outside of the model: itself, its classes, and its module."""
    if method is None:
        return []
    classes = [
        kind for kind in type(method).__mro__ if kind.__module__.partition(".")[0] not in ("adapterzoo", "typing")
    ]
    modules = [vars(sys.modules[kind.__module__]) for kind in classes if kind.__module__ in sys.modules]
    return [method, *(dict(vars(kind)) for kind in classes), *(dict(module) for module in modules)]


def _rows_digest(examples: Examples) -> str:
    """Return a digest of the rows that the trainer takes."""
    digest = new_digest()
    digest.update(pickle.dumps(examples.training_rows))
    return str(digest.hexdigest())
