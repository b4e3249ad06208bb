"""One cell's work on a lent base: an adapter is put on, trained and measured."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.machine.memory import free_memory
from adapterzoo.methods.contract import Context, Method, checked_wrap
from adapterzoo.methods.registry import registry
from adapterzoo.metrics.registry import lower_is_better_by
from adapterzoo.prepare.plan import BaseCell, Cell, MethodCell
from adapterzoo.results.result import Tuning
from adapterzoo.running.tuning import Score, tune
from adapterzoo.running.watch import Watch

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.evaluation.evaluate import Evaluation
    from adapterzoo.model.base import Base
    from adapterzoo.prepare.prepared import Prepared
    from adapterzoo.tokens.batches import Tokens
    from adapterzoo.tokens.shared_prefix import SharedPrefix
    from adapterzoo.training.trainer import Trained


TRIED_ROWS = 4  # the longest ones among them: enough to see whether rows can be joined
PROBE_STEPS = 2  # of which the last one is timed: the first does what is done once


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
    prefix: SharedPrefix | None
    """what makes batches of rows that begin alike; None where every row is to be padded"""


def adapt(prepared: Prepared, cell: MethodCell, model: nn.Module, watch: Watch) -> Adapted:
    """Put a cell's method on a model."""
    from transformers import set_seed

    method, context = registry()[cell.method], prepared.context(cell)
    options = method.options(**cell.options)
    before = sum(parameter.numel() for parameter in model.parameters())
    # Right before wrapping: whatever ran before, the adapter begins with the same numbers.
    set_seed(cell.seed)
    wrapped = checked_wrap(method, model, options, context)
    parameters = list(wrapped.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    added = sum(p.numel() for p in parameters) - before
    prefix = shared_prefix(prepared, cell, wrapped, watch, token_wise=method.token_wise)
    return Adapted(method, options, context, wrapped, trainable, added, prefix)


def shared_prefix(
    prepared: Prepared, cell: Cell, model: nn.Module, watch: Watch, *, token_wise: bool = True
) -> SharedPrefix | None:
    """Return what makes batches of a cell's rows where they begin alike, and say why not where it would pay.

    Args:
        prepared: the run.
        cell: that the model is of.
        model: with its adapter, if it has one.
        watch: is told.
        token_wise: whether the method treats each token by itself.
    """
    import torch

    from adapterzoo.tokens.shared_prefix import SharedPrefix, reason_not_to_join

    train = prepared.recipe.train
    if train.share_prefix == "never":
        return None
    prefix, rows = SharedPrefix.of(model), _tried_rows(prepared)
    reason: str | None = "the method does not treat each token by itself"
    if token_wise:
        with torch.random.fork_rng():
            reason = reason_not_to_join(
                model, rows[:TRIED_ROWS], prepared.encoded.pad_id, cell.quantization, _longest(prepared)
            )
    if reason is None:
        return prefix
    if prefix.joining_is_cheaper(rows):
        watch.say(f"{cell.label}: rows are padded, and their common prefix computed for each of them: {reason}")
    return None


def _tried_rows(prepared: Prepared) -> list[Tokens]:
    """Return a batch of training rows, with the longest ones of training and test."""
    encoded = prepared.encoded
    rows = [example.tokens for example in encoded.train[: prepared.recipe.train.batch_size]]
    longest = [max((e.tokens for e in part), key=lambda row: len(row[0])) for part in (encoded.train, encoded.test)]
    return [*longest, *rows[: max(1, len(rows) - len(longest))]]


def _longest(prepared: Prepared) -> int:
    """Return how many tokens a prompt with its answer comes to at most."""
    encoded, wanted = prepared.encoded, prepared.recipe.evaluate.max_new_tokens
    examples = [*encoded.train, *encoded.validation, *encoded.test]
    answer = max(len(example.completion) for example in examples)
    prompt = max(map(len, [*(example.prompt for example in examples), *prepared.shots]))
    return prompt + max(answer, 0 if wanted == "auto" else wanted)


def train(prepared: Prepared, cell: MethodCell, adapted: Adapted, folder: Path, watch: Watch) -> Trained:
    """Train an adapter in place.

    Args:
        folder: for checkpoints.
    """
    from adapterzoo.tokens.shared_prefix import reason_not_to_train_joined
    from adapterzoo.training.trainer import train_adapter

    method, options, context = adapted.method, adapted.options, adapted.context
    prefix = adapted.prefix
    if prefix is not None and (reason := reason_not_to_train_joined(adapted.model, prepared.recipe.train.arguments)):
        watch.say(
            f"{cell.label}: in training, rows are padded, and their common prefix computed for each of them: {reason}"
        )
        prefix = None
    watch.phase("training")
    return train_adapter(
        adapted.model,
        prepared.encoded,
        prepared.recipe.train,
        learning_rate=cell.learning_rate,
        seed=cell.seed,
        folder=folder,
        callbacks=method.callbacks(options, context),
        optimizer=partial(method.optimizer, adapted.model, options),
        resume=method.resumes,
        prefix=prefix,
        on_step=watch.step,
    )


def step_seconds(prepared: Prepared, cell: MethodCell, adapted: Adapted) -> float:
    """Train PROBE_STEPS steps; return how many seconds a step with the mean number of tokens takes."""
    steps: list[tuple[float, int]] = []

    class Times(Watch):
        def step(self, step: int, steps_in_all: int, loss: float, tokens: int) -> None:
            steps.append((time.perf_counter(), tokens))

    few: dict[str, Any] = {"steps": PROBE_STEPS, "epochs": None, "save_steps": 0, "eval_steps": 0, "loggers": []}
    settings = prepared.recipe.train.model_copy(update=few)
    short = replace(prepared, recipe=prepared.recipe.model_copy(update={"train": settings}), steps=PROBE_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        train(short, cell, adapted, Path(folder), Times())
    (begun, before), (ended, after) = steps[-2:]
    encoded, rows = prepared.encoded, settings.batch_size * settings.gradient_accumulation
    mean = rows * sum(len(example.learned) for example in encoded.train) / len(encoded.training_rows)
    return (ended - begun) * mean / (after - before)


def tuned(prepared: Prepared, cell: MethodCell, base: Base, folder: Path, watch: Watch) -> Tuning:
    """Return what a cell's ranges came to, setting by setting, on the validation rows; see :mod:`.tuning`.

    Args:
        folder: of the cell's label.
    """
    # With the recipe's first seed, for all of them, whichever are asked for today.
    first = replace(cell, seed=prepared.recipe.seeds[0])
    checkpoints = folder / "trial"

    def attempt(other: MethodCell, number: int) -> Score:
        values = {"learning_rate": other.learning_rate, **other.options}
        settings = ", ".join(f"{name} {values[name]}" for name in cell.ranges)
        watch.phase(f"trial {number + 1}: {settings}")
        shutil.rmtree(checkpoints, ignore_errors=True)
        try:
            with base.borrow() as model:
                adapted = adapt(prepared, other, model, watch)
                train(prepared, other, adapted, checkpoints, watch)
                return _validated(prepared, adapted)
        finally:
            shutil.rmtree(checkpoints, ignore_errors=True)
            free_memory()

    return tune(first, folder, lower_is_better_by(prepared.recipe.evaluate.metrics[0]), attempt)


def _validated(prepared: Prepared, adapted: Adapted) -> Score:
    """What a model comes to on the validation rows, by the metric that decides."""
    from adapterzoo.evaluation.evaluate import evaluate

    first = prepared.recipe.evaluate.metrics[0]
    settings = prepared.recipe.evaluate.model_copy(update={"metrics": list(dict.fromkeys((first, "loss")))})
    metrics = evaluate(adapted.model, prepared.encoded, settings, part="validation", prefix=adapted.prefix).metrics
    name = next(iter(metrics))
    return Score(name, metrics[name], metrics["test_loss"])


def measure(prepared: Prepared, cell: Cell, model: nn.Module, prefix: SharedPrefix | None) -> Evaluation:
    """Measure a model on the test split, as the cell's row is."""
    from adapterzoo.evaluation.evaluate import evaluate

    prompts = prepared.shots if isinstance(cell, BaseCell) and cell.shots else None
    # With examples in front only the last answer can be compared with what the other rows are measured on.
    likely = prompts is None or prepared.recipe.data.loss_on == "completion"
    return evaluate(model, prepared.encoded, prepared.recipe.evaluate, prompts, likely=likely, prefix=prefix)
