"""Measure the model of a cell, and look for what would make its results mean something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapterzoo.evaluation.causality import looks_ahead
from adapterzoo.machine import ranks
from adapterzoo.methods.rules import ANSWERS
from adapterzoo.prepare.plan import BaseCell, Cell
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.running.watch import Watch
from adapterzoo.tokens.padding_check import change_by_padding

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.prepare.prepared import Prepared
    from adapterzoo.tasks.evaluation import Evaluation, Likelihood
    from adapterzoo.tokens.batches import Tokens
    from adapterzoo.tokens.shared_prefix import SharedPrefix
    from adapterzoo.training.fair_play import FairPlay

MAX_REMEMBERED = 0.3  # share of answers that rounding cannot explain
FIRST_TRIED = 2  # the rows before are the longest ones, with which a check would take longer
TRIED_ROWS = 4
PADDING_COUNTS = (
    "padding changes this model's logits by {:.1g} of their standard deviation, so a result depends on which rows are "
    "in a batch; without padding: evaluate.batch_size=1, train.batch_size=1 and a larger train.gradient_accumulation"
)


def measure(
    prepared: Prepared,
    cell: Cell,
    model: nn.Module,
    prefix: SharedPrefix | None,
    watch: Watch,
    fair_play: FairPlay | None = None,
) -> Evaluation:
    """Measure a cell's model on the test split, and note if its answers depend on more than their prompts.

    Args:
        prepared: the run.
        cell: the cell that the model belongs to.
        model: the model, with its adapter if it has one.
        prefix: joins rows in one sequence; None if rows are padded.
        watch: is told if padding changes what the model computes.
        fair_play: notes where the method departs from the rules of the comparison; None for an untouched base model.
    """
    encoded = prepared.encoded
    shots = isinstance(cell, BaseCell) and bool(cell.shots)
    joinable = encoded.joinable(prepared.recipe.evaluate)
    tried = joinable.rows[FIRST_TRIED : FIRST_TRIED + TRIED_ROWS] if joinable is not None else []
    if fair_play is not None and tried and looks_ahead(model, tried[:2], encoded.pad_id):
        fair_play.note(ANSWERS, "predicts a token from tokens that follow it")
    if prefix is None and tried:
        _say_if_padding_counts(prepared, cell, model, tried, watch)
    with ranks.spreading():
        measured = encoded.evaluate(model, prepared.recipe.evaluate, prefix=prefix, shots=shots)
    if fair_play is not None and measured.remembered > MAX_REMEMBERED:
        share = f"{measured.remembered:.0%} of its first answers"
        fair_play.note(ANSWERS, f"gives {share} right only when the right answers are in the memory of its process")
    return measured.without(encoded.relative_metrics) if isinstance(cell, BaseCell) else measured


def _say_if_padding_counts(
    prepared: Prepared, cell: Cell, model: nn.Module, rows: Sequence[Tokens], watch: Watch
) -> None:
    """Say if padding changes what a model computes, after training, because a method may add biases that do it."""
    pads = max(prepared.recipe.train.batch_size, prepared.recipe.evaluate.batch_size) > 1
    # The run has already said that such a quantization computes a row otherwise in another batch.
    if not pads or quantizations()[cell.quantization].batch_dependent:
        return
    if change := change_by_padding(model, rows, prepared.encoded.pad_id):
        watch.say(f"{cell.label}: {PADDING_COUNTS.format(change)}")


def measure_general(prepared: Prepared, model: nn.Module) -> list[Likelihood]:
    """Return the likelihoods of the general text; an empty list if the recipe has none."""
    if prepared.general is None:
        return []
    with ranks.spreading():
        return prepared.general.measure(model)
