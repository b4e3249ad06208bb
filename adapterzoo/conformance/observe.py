"""Use every function of a method on one tiny base, and record what happens; ``properties.py`` judges the records."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.measure import greedy, greedy_gap, logits, loss, shared_prefix_gap
from adapterzoo.conformance.models import CAUSAL, rows, rows_for, tiny_base, tiny_skeleton
from adapterzoo.conformance.watch import GradientWatcher, record_events, save_only_at
from adapterzoo.errors import Problem
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.methods.contract import Context, Method, checked_wrap, load_adapter
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.model.head import load_head, put_new_head, save_adapter, train_head
from adapterzoo.prepare.dry_run import try_method
from adapterzoo.results.result import plain_findings
from adapterzoo.tasks.batches import sealed, shuffled_batches

if TYPE_CHECKING:
    import torch
    from torch import nn

STEPS = 12
SAVED_AT = STEPS // 2
# A method whose own learning rate is lower trains with this one, because twelve steps are few.
LEARNING_RATE = 1e-3


@dataclass
class Observation:
    """The observations of one method on one base model. A field keeps its default if its stage was not reached."""

    architecture: str
    quantization: str
    declined: list[Problem] = field(default_factory=list)
    """the method's own reasons why it cannot work on this architecture"""
    errors: dict[str, BaseException] = field(default_factory=dict)
    """stage -> the error that it raised"""
    logits: dict[str, torch.Tensor] = field(default_factory=dict)
    """logits of all tokens that are no padding, by when they were measured: ``base``, ``start``, ``trained``,
    ``loaded`` and ``merged`` with all rows in one batch; ``base alone`` and ``alone`` (trained) with one row at a time;
    ``plain base``, ``plain start`` and ``plain trained`` on a base without quantization"""
    greedy_gap: float | None = None
    """largest distance of a generated token's logit below the highest logit of a plain forward pass"""
    shared_prefix_gap: float | None = None
    """largest relative difference of loss and gradients between padded rows and rows with a shared prefix"""
    losses: list[float] = field(default_factory=list)
    """evaluation losses on the training rows, before and after training"""
    steps: int = 0
    """number of optimizer steps of the training"""
    trainable: int = 0
    """number of trainable parameters at the default options"""
    dtypes: list[str] = field(default_factory=list)
    """dtypes of the parameters trained on a base in bfloat16"""
    without_gradient: list[str] = field(default_factory=list)
    """names of trainable parameters whose gradient was zero in every step"""
    changed: list[str] = field(default_factory=list)
    """names of tensors of the base that training changed"""
    merged: list[str] = field(default_factory=list)
    """names of parameters that either the merged model or the base has, but not both"""
    silent_callbacks: list[str] = field(default_factory=list)
    """names of callback classes that were never called"""
    files: list[str] = field(default_factory=list)
    """names of the files of the saved adapter"""
    sizes: dict[Any, int] = field(default_factory=dict)
    """value of the size option -> number of trained parameters"""
    first: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors of the first training"""
    again: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors of a second training with the same seed"""
    resumed: dict[str, torch.Tensor] = field(default_factory=dict)
    """trained tensors of a training that was resumed from a checkpoint of the first"""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record an error of a stage under its name; the following stages still run."""
        try:
            yield
        except (Exception, SystemExit) as error:  # the method under test may raise anything
            self.errors[name] = error


def observe(
    method: Method[Any], architecture: str, quantization: str, options: Any = None, task_type: str = CAUSAL
) -> Observation:
    """Use a method on one base for one type of task, and return everything that the properties need to know."""
    _speed_up_garbage_collection()
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="adapterzoo-") as folder:
        chosen = options or method.options()
        return _Observer(method, architecture, quantization, chosen, Path(folder), task_type).observe()


@cache
def _speed_up_garbage_collection() -> None:
    """Exclude the objects of imported modules from garbage collection.

    The trainer collects garbage whenever it starts. Without this, that takes longer than the training, mostly for
    objects of modules, which never become garbage.
    """
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401

    gc.collect()
    gc.freeze()


class _Observer:
    """Applies one method to one base, saves into one folder, and records what happens."""

    def __init__(
        self,
        method: Method[Any],
        architecture: str,
        quantization: str,
        options: Any,
        folder: Path,
        task_type: str,
    ) -> None:
        from adapterzoo.recipe.schema import TrainSection

        self.method, self.options, self.folder = method, options, folder
        self.base = tiny_base(architecture, quantization, task_type=task_type)
        self.causal = task_type == CAUSAL
        self.rows: Any = rows() if self.causal else rows_for(task_type)
        self.observed = Observation(architecture, quantization)
        self.settings = TrainSection(
            steps=STEPS,
            batch_size=len(self.rows.train),
            scheduler="constant",
            warmup=0,
            eval_steps=SAVED_AT if self.causal else 0,
        )
        self.context = Context(
            quantization=quantization,
            total_steps=STEPS,
            gradient_accumulation=1,
            seed=0,
            task_type=task_type,
            batches=shuffled_batches(sealed(self.rows), len(self.rows.train), 0),
        )

    def observe(self) -> Observation:
        observed, base = self.observed, self.base
        with base.borrow() as model:
            put_new_head(model, 0)
            observed.logits["base"] = logits(model, self.rows)
            observed.logits["base alone"] = logits(model, self.rows, at_once=False)
        with observed.stage("problems"):
            skeleton = tiny_skeleton(observed.architecture, self.context.task_type)
            observed.declined = try_method(self.method, skeleton, self.options, self.context).problems
        if observed.declined or observed.errors:
            return observed
        with base.borrow() as model:
            self._use(model)
        if observed.quantization in self.method.mergeable_into:
            base.invalidate()
        if observed.quantization != "none" and "none" in self.method.quantizations:
            plain = tiny_base(observed.architecture, "none")
            observed.logits["plain base"] = logits(plain.get_model(), self.rows)
            with observed.stage("plain"), plain.borrow() as model:
                wrapped = self._wrap(model)
                observed.logits["plain start"] = logits(wrapped, self.rows)
                self._train(wrapped, "plain")
                observed.logits["plain trained"] = logits(wrapped, self.rows)
        if "wrap" in observed.errors or "train" in observed.errors:
            return observed
        with observed.stage("load"), base.borrow() as model:
            load_head(model, self.folder / "adapter")
            loaded = load_adapter(self.method, model, self.folder / "adapter", self.options, self.context)
            observed.logits["loaded"] = logits(loaded, self.rows)
        with observed.stage("again"), base.borrow() as model:
            observed.again = self._train(self._wrap(model), "again")
        if self.method.resumes:
            with observed.stage("resume"), base.borrow() as model:
                observed.resumed = self._train(self._wrap(model), "first")
        with (
            observed.stage("bfloat16"),
            tiny_base(
                observed.architecture, observed.quantization, "bfloat16", self.context.task_type
            ).borrow() as model,
        ):
            wrapped = self._wrap(model)
            observed.dtypes = sorted(
                {str(p.dtype).removeprefix("torch.") for p in trained_parameters(wrapped).values()}
            )
            self._train(wrapped, "bfloat16", steps=2)
            if self.causal:
                greedy(wrapped, self.rows)
        if self.method.size_option:
            with observed.stage("size"):
                self._sizes()
        return observed

    def _wrap(self, model: nn.Module, options: Any = None) -> nn.Module:
        from transformers import set_seed

        put_new_head(model, 0)
        set_seed(0)
        wrapped = checked_wrap(self.method, model, options or self.options, self.context)
        self.head = train_head(model)
        return wrapped

    def _use(self, model: nn.Module) -> None:
        """Wrap, train, save and merge once, and record everything."""
        observed = self.observed
        tensors = dict(model.named_parameters())
        frozen = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        with observed.stage("wrap"):
            wrapped = self._wrap(model)
            observed.trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
            observed.logits["start"] = logits(wrapped, self.rows)
            observed.losses.append(loss(wrapped, self.rows))
        if "wrap" in observed.errors:
            return
        with observed.stage("train"):
            observed.first = self._train(wrapped, "first", watch=True)
            observed.changed = [name for name, before in frozen.items() if not _same(before, tensors[name])]
            observed.logits["trained"] = logits(wrapped, self.rows)
            observed.losses.append(loss(wrapped, self.rows))
        if "train" in observed.errors:
            return
        with observed.stage("padding"):
            observed.logits["alone"] = logits(wrapped, self.rows, at_once=False)
        if self.causal:
            with observed.stage("generate"):
                observed.greedy_gap = greedy_gap(wrapped, self.rows)
        if self.causal and self.method.token_wise and observed.quantization != "int8":
            with observed.stage("shared prefix"):
                observed.shared_prefix_gap = shared_prefix_gap(wrapped, self.rows)
        with observed.stage("findings"):
            plain_findings(self.method.findings(wrapped))
        with observed.stage("save"):
            save_adapter(self.method, wrapped, self.head, self.folder / "adapter")
            observed.files = sorted(path.name for path in (self.folder / "adapter").rglob("*") if path.is_file())
        if observed.quantization in self.method.mergeable_into:
            with observed.stage("merge"):
                merged = self.method.merge(wrapped)
                observed.merged = sorted(set(dict(merged.named_parameters())) ^ set(tensors))
                observed.logits["merged"] = logits(merged, self.rows)

    def _train(self, model: Any, name: str, watch: bool = False, steps: int = STEPS) -> dict[str, torch.Tensor]:
        """Train, and return the trained tensors; resume if the folder of that name already has a checkpoint."""
        from adapterzoo.training.trainer import train_adapter

        callbacks = self.method.callbacks(self.options, self.context)
        calls = [record_events(callback) for callback in callbacks] if watch else []
        checkpoints = self.folder / name
        resuming = checkpoints.exists()
        names = set(trained_parameters(model))
        gradients = GradientWatcher(names)
        watchers = [gradients.callback(), save_only_at(SAVED_AT)] if watch else []
        training = train_adapter(
            model,
            self.rows,
            self.settings.model_copy(update={"steps": steps, "save_steps": SAVED_AT if watch or resuming else 0}),
            learning_rate=max(self.method.learning_rate, LEARNING_RATE),
            seed=0,
            folder=checkpoints,
            callbacks=[*callbacks, *watchers],
            optimizer=partial(self.method.optimizer, model, self.options),
        )
        if watch:
            self.observed.steps = sum("loss" in entry for entry in training.history)
            self.observed.without_gradient = sorted(gradients.missing)
            self.observed.silent_callbacks = [
                type(callback).__name__ for callback, events in zip(callbacks, calls, strict=True) if not events
            ]
        # Use the names from before the training, because a method may freeze parameters during the training.
        return {name: tensor.detach().clone() for name, tensor in model.named_parameters() if name in names}

    def _sizes(self) -> None:
        """Count the trained parameters at the default size, and at other sizes until the number changes."""
        option = self.method.size_option or ""
        default = getattr(self.options, option)
        self.observed.sizes[default] = self.observed.trainable
        for value in (default * 2, default // 2) if isinstance(default, int) else ():
            try:
                options = type(self.options)(**{**self.options.model_dump(), option: value})
            except ValueError:
                continue
            skeleton = tiny_skeleton(self.observed.architecture, self.context.task_type)
            if try_method(self.method, skeleton, options, self.context).problems:
                continue
            with self.base.borrow() as model:
                wrapped = self._wrap(model, options)
                self.observed.sizes[value] = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
            if self.observed.sizes[value] != self.observed.trainable:
                return


def _same(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Tell whether two tensors are equal in dtype, shape and every value."""
    return bool(before.dtype == after.dtype and before.shape == after.shape and before.equal(after.detach()))
