"""Puts a method through its paces on one tiny base, and writes down what happened. Judging is another file's job."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.measure import behind, greedy, joined_gap, logits, loss
from adapterzoo.conformance.models import rows, tiny_base, tiny_skeleton
from adapterzoo.conformance.watch import Gradients, keep_one, watched
from adapterzoo.errors import Problem
from adapterzoo.methods.contract import Context, Method, checked_wrap
from adapterzoo.methods.layers import trained
from adapterzoo.prepare.dry_run import try_method
from adapterzoo.prepare.prepared import quiet_libraries
from adapterzoo.results.result import plain_findings
from adapterzoo.tokens.batches import shuffled_batches

if TYPE_CHECKING:
    import torch
    from torch import nn

STEPS = 12
SAVED_AT = STEPS // 2
# Twelve steps are few: a method whose own rate is lower trains with this one.
LEARNING_RATE = 1e-3


@dataclass
class Observed:
    """What a method did on one base. A stage that was not reached, or not asked for, left its fields as they are."""

    architecture: str
    quantization: str
    declined: list[Problem] = field(default_factory=list)
    """what the method itself says cannot work on this architecture"""
    errors: dict[str, BaseException] = field(default_factory=dict)
    """stage -> what it raised"""
    logits: dict[str, torch.Tensor] = field(default_factory=dict)
    """of each row's real tokens: ``base``, ``start``, ``trained``, ``loaded``, ``merged``, all rows in one batch;
    ``base alone`` and ``alone``, a row at a time; ``plain base``, ``plain start`` and
    ``plain trained``, over weights not quantized"""
    behind: float | None = None
    """how far, in logits, a greedily generated token was behind the likeliest one of a plain forward pass, at most"""
    joined_gap: float | None = None
    """how far losses and gradients of rows in one sequence, with a shared prefix, are from those of padded rows, as a
    share of these"""
    losses: list[float] = field(default_factory=list)
    """on the rows that it trains on, as they are evaluated: before and after"""
    steps: int = 0
    trainable: int = 0
    dtypes: list[str] = field(default_factory=list)
    """of the parameters trained over a base in bfloat16"""
    without_gradient: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """tensors of the base that training changed"""
    merged: list[str] = field(default_factory=list)
    """parameters that the merged model has and the base has not, or the other way round"""
    silent_callbacks: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sizes: dict[Any, int] = field(default_factory=dict)
    """size option -> parameters trained"""
    first: dict[str, torch.Tensor] = field(default_factory=dict)
    again: dict[str, torch.Tensor] = field(default_factory=dict)
    resumed: dict[str, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is raised within is written down under a name, and ends the stage alone."""
        try:
            yield
        except (Exception, SystemExit) as error:  # the method under test may raise anything
            self.errors[name] = error


def observe(method: Method[Any], architecture: str, quantization: str, options: Any = None) -> Observed:
    """Everything the properties need to know of a method on one base."""
    _spare_the_collector()
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="adapterzoo-") as folder:
        return _Trial(method, architecture, quantization, options or method.options(), Path(folder)).all()


@cache
def _spare_the_collector() -> None:
    """The trainer collects garbage each time it begins, which takes longer than the training.

    Most of that is a walk through what the imports made and will never be garbage.
    """
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401

    gc.collect()
    gc.freeze()


class _Trial:
    def __init__(self, method: Method[Any], architecture: str, quantization: str, options: Any, folder: Path) -> None:
        from adapterzoo.recipe.schema import TrainSection

        self.method, self.options, self.folder = method, options, folder
        self.lent = tiny_base(architecture, quantization)
        self.rows = rows()
        self.seen = Observed(architecture, quantization)
        self.settings = TrainSection(
            steps=STEPS, batch_size=len(self.rows.train), scheduler="constant", warmup=0, eval_steps=SAVED_AT
        )
        self.context = Context(
            quantization=quantization,
            total_steps=STEPS,
            gradient_accumulation=1,
            seed=0,
            batches=shuffled_batches(self.rows.sealed_rows(), len(self.rows.train), 0, self.rows.pad_id),
        )

    def all(self) -> Observed:
        seen, lent = self.seen, self.lent
        seen.logits["base"] = logits(lent.model, self.rows)
        seen.logits["base alone"] = logits(lent.model, self.rows, at_once=False)
        with seen.stage("problems"):
            skeleton = tiny_skeleton(seen.architecture)
            seen.declined, _ = try_method(self.method, skeleton, self.options, self.context)
        if seen.declined or seen.errors:
            return seen
        with lent.borrow() as model:
            self._first(model)
        if seen.quantization in self.method.mergeable_into:
            lent.invalidate()
        if seen.quantization != "none" and "none" in self.method.quantizations:
            plain = tiny_base(seen.architecture, "none")
            seen.logits["plain base"] = logits(plain.model, self.rows)
            with seen.stage("plain"), plain.borrow() as model:
                wrapped = self._wrap(model)
                seen.logits["plain start"] = logits(wrapped, self.rows)
                self._train(wrapped, "plain")
                seen.logits["plain trained"] = logits(wrapped, self.rows)
        if "wrap" in seen.errors or "train" in seen.errors:
            return seen
        with seen.stage("load"), lent.borrow() as model:
            seen.logits["loaded"] = logits(self.method.load(model, self.folder / "adapter"), self.rows)
        with seen.stage("again"), lent.borrow() as model:
            seen.again = self._train(self._wrap(model), "again")
        if self.method.resumes:
            with seen.stage("resume"), lent.borrow() as model:
                seen.resumed = self._train(self._wrap(model), "first")
        with seen.stage("bfloat16"), tiny_base(seen.architecture, seen.quantization, "bfloat16").borrow() as model:
            wrapped = self._wrap(model)
            seen.dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in trained(wrapped).values()})
            self._train(wrapped, "bfloat16", steps=2)
            greedy(wrapped, self.rows)
        if self.method.size_option:
            with seen.stage("size"):
                self._sizes()
        return seen

    def _wrap(self, model: nn.Module, options: Any = None) -> nn.Module:
        from transformers import set_seed

        set_seed(0)
        return checked_wrap(self.method, model, options or self.options, self.context)

    def _first(self, model: nn.Module) -> None:
        """Wrap, train, save and merge, with everything watched."""
        seen = self.seen
        tensors = dict(model.named_parameters())
        frozen = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        with seen.stage("wrap"):
            wrapped = self._wrap(model)
            seen.trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
            seen.logits["start"] = logits(wrapped, self.rows)
            seen.losses.append(loss(wrapped, self.rows))
        if "wrap" in seen.errors:
            return
        with seen.stage("train"):
            seen.first = self._train(wrapped, "first", watch=True)
            seen.changed = [name for name, before in frozen.items() if not _same(before, tensors[name])]
            seen.logits["trained"] = logits(wrapped, self.rows)
            seen.losses.append(loss(wrapped, self.rows))
        if "train" in seen.errors:
            return
        with seen.stage("padding"):
            seen.logits["alone"] = logits(wrapped, self.rows, at_once=False)
        with seen.stage("generate"):
            seen.behind = behind(wrapped, self.rows)
        if self.method.token_wise and seen.quantization != "int8":
            with seen.stage("joined"):
                seen.joined_gap = joined_gap(wrapped, self.rows)
        with seen.stage("findings"):
            plain_findings(self.method.findings(wrapped))
        with seen.stage("save"):
            self.method.save(wrapped, self.folder / "adapter")
            seen.files = sorted(path.name for path in (self.folder / "adapter").rglob("*") if path.is_file())
        if seen.quantization in self.method.mergeable_into:
            with seen.stage("merge"):
                merged = self.method.merge(wrapped)
                seen.merged = sorted(set(dict(merged.named_parameters())) ^ set(tensors))
                seen.logits["merged"] = logits(merged, self.rows)

    def _train(self, model: Any, name: str, watch: bool = False, steps: int = STEPS) -> dict[str, torch.Tensor]:
        """Train; from the middle on where a checkpoint of that name is there. Returns the adapter's tensors."""
        from adapterzoo.training.trainer import train

        callbacks = self.method.callbacks(self.options, self.context)
        fired = [watched(callback) for callback in callbacks] if watch else []
        checkpoints = self.folder / name
        resuming = checkpoints.exists()
        names = set(trained(model))
        gradients = Gradients(names)
        watchers = [gradients.callback(), keep_one(SAVED_AT)] if watch else []
        ran = train(
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
            self.seen.steps = sum("loss" in entry for entry in ran.history)
            self.seen.without_gradient = sorted(gradients.missing)
            self.seen.silent_callbacks = [
                type(callback).__name__ for callback, events in zip(callbacks, fired, strict=True) if not events
            ]
        # By the names from before: a method may freeze some on the way.
        return {name: tensor.detach().clone() for name, tensor in model.named_parameters() if name in names}

    def _sizes(self) -> None:
        """The number of trained parameters at the default size and at others the method takes."""
        option = self.method.size_option or ""
        default = getattr(self.options, option)
        self.seen.sizes[default] = self.seen.trainable
        for value in (default * 2, default // 2) if isinstance(default, int) else ():
            try:
                options = type(self.options)(**{**self.options.model_dump(), option: value})
            except ValueError:
                continue
            skeleton = tiny_skeleton(self.seen.architecture)
            if try_method(self.method, skeleton, options, self.context)[0]:
                continue
            with self.lent.borrow() as model:
                wrapped = self._wrap(model, options)
                self.seen.sizes[value] = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
            if self.seen.sizes[value] != self.seen.trainable:
                return


def _same(before: torch.Tensor, after: torch.Tensor) -> bool:
    return bool(before.dtype == after.dtype and before.shape == after.shape and before.equal(after.detach()))
