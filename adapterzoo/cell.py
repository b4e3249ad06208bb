"""One cell's work on a lent base: an adapter is put on, trained and measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.method import Method, put_on
from adapterzoo.plan import Cell
from adapterzoo.registry import registry

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.evaluate import Evaluation
    from adapterzoo.prepare import Prepared
    from adapterzoo.progress import Reporter
    from adapterzoo.train import Trained


@dataclass(frozen=True)
class Adapted:
    """A base with a trained adapter on it."""

    method: Method[Any]
    model: nn.Module
    trained: Trained
    trainable: int
    """how many parameters were trained"""
    added: int
    """how many parameters it has more than the base"""


def train(prepared: Prepared, cell: Cell, model: nn.Module, folder: Path, reporter: Reporter) -> Adapted:
    """Put a cell's method on a model and train it; the same numbers whatever ran before.

    Args:
        folder: for checkpoints.
    """
    from transformers import set_seed

    from adapterzoo import train

    method, context = registry()[cell.method or ""], prepared.context(cell)
    options = method.options(**cell.options)
    before = sum(parameter.numel() for parameter in model.parameters())
    # Right before wrapping: whatever ran before, the adapter begins with the same numbers.
    set_seed(cell.seed)
    wrapped = put_on(method, model, options, context)
    parameters = list(wrapped.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    added = sum(p.numel() for p in parameters) - before
    reporter.phase("training")
    trained = train.train(
        wrapped,
        prepared.encoded,
        prepared.recipe.train,
        learning_rate=cell.learning_rate or 0.0,
        seed=cell.seed,
        folder=folder,
        callbacks=method.callbacks(options, context),
        optimizer=partial(method.optimizer, wrapped, options),
        resume=method.resumes,
        on_step=reporter.step,
    )
    return Adapted(method, wrapped, trained, trainable, added)


def measure(prepared: Prepared, cell: Cell, model: nn.Module) -> Evaluation:
    """Measure a model on the test split, as the cell's row is."""
    from adapterzoo.evaluate import evaluate

    prompts = prepared.shots if cell.shots else None
    # With examples in front only the last answer can be compared with what the other rows are measured on.
    likely = prompts is None or prepared.recipe.data.loss_on == "completion"
    return evaluate(model, prepared.encoded, prepared.recipe.evaluate, prompts, likely=likely)
