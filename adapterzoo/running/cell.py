"""The work of one cell on a borrowed base model: wrap it with an adapter, train the adapter, measure the model."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.methods.calls import checked_wrap
from adapterzoo.methods.contract import Context, Method
from adapterzoo.methods.registry import registry
from adapterzoo.model.head import adapter_size, head_parameters, put_new_head, train_head
from adapterzoo.model.placing import computes_on_several
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.recipe.train import ZERO_STAGES
from adapterzoo.running.watch import Watch
from adapterzoo.tasks.batches import hidden_rows
from adapterzoo.tasks.examples import sizes

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.prepare.prepared import Prepared
    from adapterzoo.tokens.shared_prefix import SharedPrefix
    from adapterzoo.training.fair_play import FairPlay
    from adapterzoo.training.train import Trained


TRIED_ROWS = 4  # number of rows, including the longest ones, that are joined to see whether the logits stay the same
PROBE_STEPS = 2  # only the last step is timed, because the first one also does work that is done once


@dataclass(frozen=True)
class Adapted:
    """A base model that a cell's method has wrapped with an adapter."""

    method: Method[Any]
    options: Any
    context: Context
    model: nn.Module
    trainable: int
    """number of parameters that are trained, without those of a new head"""
    added: int
    """number of parameters that wrapping added to the base model"""
    head: dict[str, nn.Parameter]
    """parameters of a new head that is trained beside the adapter; empty if the method saves it with the adapter"""
    head_params: int
    """number of parameters of a new head, which every method trains"""
    head_bytes: int
    """size of these parameters"""
    fair_play: FairPlay
    """notes where the method departs from the rules of the comparison"""
    prefix: SharedPrefix | None
    """joins rows that begin with the same tokens into one sequence; None if rows are padded"""


def import_libraries(prepared: Prepared) -> None:
    """Import libraries that change torch when they are imported, before a cell begins that would be blamed for it."""
    if prepared.recipe.train.sharding in ZERO_STAGES:
        from adapterzoo.training.zero import import_deepspeed

        import_deepspeed()


def adapt(prepared: Prepared, cell: MethodCell, model: nn.Module, watch: Watch) -> Adapted:
    """Wrap a base model with the adapter of a cell's method."""
    from transformers import set_seed

    from adapterzoo.training.fair_play import FairPlay

    method, context = registry()[cell.method], prepared.context(cell)
    fair_play = FairPlay(method)
    options = method.options(**cell.options)
    before = sum(parameter.numel() for parameter in model.parameters())
    put_new_head(model, cell.seed)
    new_head = list(head_parameters(model).values())
    # Set the seed right before wrapping: the adapter then begins with the same numbers, no matter what ran before.
    set_seed(cell.seed)
    with fair_play.wrapping(context) as watched, hidden_rows(prepared.encoded):
        wrapped = checked_wrap(method, model, options, watched)
    head = train_head(model)
    # Some methods train a copy of the new head, beside the one that counts already.
    copied = sum(p.numel() for p in head_parameters(model).values()) - sum(p.numel() for p in new_head)
    added = sum(p.numel() for p in wrapped.parameters()) - before - copied
    prefix = shared_prefix(prepared, cell, wrapped, watch, token_wise=method.token_wise)
    return Adapted(
        method,
        options,
        context,
        wrapped,
        trainable=adapter_size(wrapped, model),
        added=added,
        head=head,
        head_params=sum(p.numel() for p in new_head),
        head_bytes=sum(p.numel() * p.element_size() for p in new_head),
        fair_play=fair_play,
        prefix=prefix,
    )


def shared_prefix(
    prepared: Prepared, cell: Cell, model: nn.Module, watch: Watch, *, token_wise: bool = True
) -> SharedPrefix | None:
    """Return the object that joins a cell's rows in one sequence; None if the rows have to be padded.

    Args:
        prepared: the run.
        cell: the cell that the model belongs to.
        model: the model, with its adapter if it has one.
        watch: receives the reason for padding, if joining the rows would have saved time.
        token_wise: whether the method treats each token by itself.
    """
    import torch

    from adapterzoo.tokens.joining_check import reason_not_to_join
    from adapterzoo.tokens.shared_prefix import SharedPrefix

    joinable = prepared.encoded.joinable(prepared.recipe.evaluate)
    if joinable is None or prepared.recipe.train.share_prefix == "never" or computes_on_several(model):
        return None
    prefix, rows = SharedPrefix.of(model), joinable.rows[: max(3, prepared.recipe.train.batch_size)]
    reason: str | None = "the method does not treat each token by itself"
    if token_wise:
        with torch.random.fork_rng():
            reason = reason_not_to_join(
                model, rows[:TRIED_ROWS], prepared.encoded.pad_id, cell.quantization, joinable.longest
            )
    if reason is None:
        return prefix
    if prefix.joining_is_cheaper(rows):
        watch.say(f"{cell.label}: rows are padded, and their common prefix is computed for each row: {reason}")
    return None


def train(prepared: Prepared, cell: MethodCell, adapted: Adapted, folder: Path, watch: Watch) -> Trained:
    """Train an adapter in place.

    Args:
        prepared: the run.
        cell: the cell that the adapter belongs to.
        adapted: the wrapped model.
        folder: folder for checkpoints.
        watch: receives the progress.
    """
    from adapterzoo.tokens.joining_check import reason_not_to_train_joined
    from adapterzoo.training.method_part import MethodPart
    from adapterzoo.training.train import train_adapter

    prefix = adapted.prefix
    if prefix is not None and (reason := reason_not_to_train_joined(adapted.model, prepared.recipe.train.arguments)):
        watch.say(
            f"{cell.label}: in training, rows are padded, and their common prefix is computed for each row: {reason}"
        )
        prefix = None
    watch.phase("training")
    with hidden_rows(prepared.encoded, keep_validation=bool(prepared.recipe.train.eval_steps)):
        return train_adapter(
            adapted.model,
            prepared.encoded,
            prepared.recipe.train,
            learning_rate=cell.learning_rate,
            seed=cell.seed,
            folder=folder,
            part=MethodPart.of(adapted.method, adapted.model, adapted.options, adapted.context),
            prefix=prefix,
            fair_play=adapted.fair_play,
            on_step=watch.step,
            say=lambda what: watch.say(f"{cell.label}, seed {cell.seed}: {what}"),
        )


def step_seconds(prepared: Prepared, cell: MethodCell, adapted: Adapted) -> float:
    """Train PROBE_STEPS steps; return how many seconds a step with the mean number of tokens takes."""
    steps: list[tuple[float, int]] = []

    class StepTimes(Watch):
        def step(self, step: int, total_steps: int, loss: float, tokens: int) -> None:
            steps.append((time.perf_counter(), tokens))

    changes: dict[str, Any] = {"steps": PROBE_STEPS, "epochs": None, "save_steps": 0, "eval_steps": 0, "loggers": []}
    settings = prepared.recipe.train.model_copy(update=changes)
    short = replace(prepared, recipe=prepared.recipe.model_copy(update={"train": settings}), steps=PROBE_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        train(short, cell, adapted, Path(folder), StepTimes())
    (begun, tokens_before), (ended, tokens_after) = steps[-2:]
    encoded, rows = prepared.encoded, settings.batch_size * settings.gradient_accumulation
    mean_tokens = rows * int(sum(sizes(encoded.train))) / len(encoded.training_rows)
    return (ended - begun) * mean_tokens / (tokens_after - tokens_before)
