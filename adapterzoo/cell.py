"""One cell's work on a lent base: an adapter is put on, trained and measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.memory import free_memory
from adapterzoo.method import Context, Method, put_on
from adapterzoo.metric_registry import lower_is_better_by
from adapterzoo.plan import Cell
from adapterzoo.registry import registry
from adapterzoo.results import Tuning
from adapterzoo.tuning import Score, tune

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.base import Base
    from adapterzoo.evaluate import Evaluation
    from adapterzoo.prepare import Prepared
    from adapterzoo.progress import Watch
    from adapterzoo.train import Trained


@dataclass(frozen=True)
class Adapted:
    """A base with an adapter on it."""

    method: Method[Any]
    options: Any
    context: Context
    model: nn.Module
    trainable: int
    """how many parameters were trained"""
    added: int
    """how many parameters it has more than the base"""


def adapt(prepared: Prepared, cell: Cell, model: nn.Module) -> Adapted:
    """Put a cell's method on a model."""
    from transformers import set_seed

    method, context = registry()[cell.method or ""], prepared.context(cell)
    options = method.options(**cell.options)
    before = sum(parameter.numel() for parameter in model.parameters())
    # Right before wrapping: whatever ran before, the adapter begins with the same numbers.
    set_seed(cell.seed)
    wrapped = put_on(method, model, options, context)
    parameters = list(wrapped.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    added = sum(p.numel() for p in parameters) - before
    return Adapted(method, options, context, wrapped, trainable, added)


def train(prepared: Prepared, cell: Cell, adapted: Adapted, folder: Path, watch: Watch) -> Trained:
    """Train an adapter in place.

    Args:
        folder: for checkpoints.
    """
    from adapterzoo import train

    method, options, context = adapted.method, adapted.options, adapted.context
    watch.phase("training")
    return train.train(
        adapted.model,
        prepared.encoded,
        prepared.recipe.train,
        learning_rate=cell.learning_rate or 0.0,
        seed=cell.seed,
        folder=folder,
        callbacks=method.callbacks(options, context),
        optimizer=partial(method.optimizer, adapted.model, options),
        resume=method.resumes,
        on_step=watch.step,
    )


def tuned(prepared: Prepared, cell: Cell, base: Base, folder: Path, watch: Watch) -> Tuning:
    """What a cell's ranges came to, setting by setting, on the validation rows; see :func:`adapterzoo.tuning.tune`.

    Args:
        folder: of the cell's label.
    """
    # With the recipe's first seed, for all of them, whichever are asked for today.
    first = replace(cell, seed=prepared.recipe.seeds[0])
    checkpoints = folder / "trial"

    def attempt(other: Cell, number: int) -> Score:
        values = {"learning_rate": other.learning_rate, **other.options}
        settings = ", ".join(f"{name} {values[name]}" for name in cell.ranges)
        watch.phase(f"trial {number + 1}: {settings}")
        shutil.rmtree(checkpoints, ignore_errors=True)
        try:
            with base.lend() as model:
                adapted = adapt(prepared, other, model)
                train(prepared, other, adapted, checkpoints, watch)
                return _validated(prepared, adapted.model)
        finally:
            shutil.rmtree(checkpoints, ignore_errors=True)
            free_memory()

    return tune(first, folder, lower_is_better_by(prepared.recipe.evaluate.metrics[0]), attempt)


def _validated(prepared: Prepared, model: nn.Module) -> Score:
    """What a model comes to on the validation rows, by the metric that decides."""
    from adapterzoo.evaluate import evaluate

    first = prepared.recipe.evaluate.metrics[0]
    settings = prepared.recipe.evaluate.model_copy(update={"metrics": list(dict.fromkeys((first, "loss")))})
    metrics = evaluate(model, prepared.encoded, settings, part="validation").metrics
    name = next(iter(metrics))
    return Score(name, metrics[name], metrics["test_loss"])


def measure(prepared: Prepared, cell: Cell, model: nn.Module) -> Evaluation:
    """Measure a model on the test split, as the cell's row is."""
    from adapterzoo.evaluate import evaluate

    prompts = prepared.shots if cell.shots else None
    # With examples in front only the last answer can be compared with what the other rows are measured on.
    likely = prompts is None or prepared.recipe.data.loss_on == "completion"
    return evaluate(model, prepared.encoded, prepared.recipe.evaluate, prompts, likely=likely)
