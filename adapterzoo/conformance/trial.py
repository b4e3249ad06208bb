"""Wrap, train and save one method with some options and one seed, on one tiny base."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.elsewhere import answers
from adapterzoo.conformance.host import Visit
from adapterzoo.conformance.method_place import MethodPlace
from adapterzoo.conformance.models import model_folder
from adapterzoo.machine.limits import TooLongError, stopped_after
from adapterzoo.methods.calls import checked_wrap, load_adapter
from adapterzoo.methods.contract import Context, Method
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.model.head import load_head, put_new_head, save_adapter, train_head

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.recipe.schema import TrainSection

STEPS = 12
SAVED_AT = STEPS // 2
# A method whose own learning rate is lower trains with this one, because twelve steps are few.
LEARNING_RATE = 1e-3
# Expect that training lowers the loss on the four rows by at least this share.
MIN_LOSS_FALL = 0.001
LIMIT_SECONDS = 60
"""longest time for one stage, such as saving"""


class Trial:
    """One method with some options and one seed, whose files are in a folder of its own."""

    def __init__(
        self, method: Method[Any], options: Any, context: Context, architecture: str, rows: Any, folder: Path
    ) -> None:
        self.method, self.options, self.context, self.rows = method, options, context, rows
        self.architecture, self.folder = architecture, folder
        folder.mkdir(parents=True, exist_ok=True)

    def other(
        self, folder: str, *, options: Any = None, architecture: str | None = None, rows: Any = None, **context: Any
    ) -> Trial:
        """Return a trial of the same method with some things changed, and with a folder below this one.

        Args:
            folder: name of the folder.
            options: other options.
            architecture: another architecture.
            rows: other rows.
            context: fields of the context that differ.
        """
        return Trial(
            self.method,
            options or self.options,
            replace(self.context, **context),
            architecture or self.architecture,
            rows or self.rows,
            self.folder / folder,
        )

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap a base model, and note whether that keeps the rules of the comparison."""
        from transformers import set_seed

        from adapterzoo.training.fair_play import FairPlay

        put_new_head(model, self.context.seed)
        set_seed(self.context.seed)
        self.fair_play = FairPlay(self.method)
        with self.fair_play.wrapping(self.context) as context:
            wrapped = checked_wrap(self.method, model, self.options, context)
        self.head = train_head(model)
        return wrapped

    def train(
        self,
        model: Any,
        settings: TrainSection,
        name: str = "train",
        callbacks: Sequence[Any] = (),
        rate: float | None = None,
        observe: Callable[[Sequence[Any]], None] = lambda callbacks: None,
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        """Train a wrapped model; resume if the folder of that name already has a checkpoint.

        Args:
            model: the wrapped model.
            settings: how to train.
            name: name of the folder of the checkpoints.
            callbacks: callbacks beside those of the method.
            rate: the learning rate; None for one that is high enough for few steps.
            observe: is called with the method's callbacks before the training.

        Returns:
            The trained tensors by name, and the history of the training.
        """
        from adapterzoo.training.method_part import MethodPart
        from adapterzoo.training.train import train_adapter

        part = MethodPart.of(self.method, model, self.options, self.context)
        observe(part.callbacks)
        names = set(trained_parameters(model))
        training = train_adapter(
            model,
            self.rows,
            settings,
            learning_rate=max(self.method.learning_rate, LEARNING_RATE) if rate is None else rate,
            seed=self.context.seed,
            folder=self.folder / name,
            part=replace(part, callbacks=[*part.callbacks, *callbacks], resumes=True),
            fair_play=self.fair_play,
        )
        # Use the names from before the training, because a method may freeze parameters during the training.
        tensors = {name: tensor.detach().clone() for name, tensor in model.named_parameters() if name in names}
        return tensors, training.history

    def save(self, wrapped: nn.Module) -> None:
        """Save the adapter, and move its folder and change the dates of its files, as users' tools do."""
        save_adapter(self.method, wrapped, self.head, self.folder / "saved")
        shutil.move(self.folder / "saved", self.adapter)
        for file in self.adapter.rglob("*"):
            os.utime(file, (0, 0))

    @property
    def adapter(self) -> Path:
        """The folder of the saved adapter."""
        return self.folder / "moved" / "adapter"

    @property
    def merged(self) -> Path:
        """The folder for a merged model."""
        return self.folder / "merged"

    def load(self, model: nn.Module) -> nn.Module:
        """Put the saved adapter on a base model."""
        load_head(model, self.adapter)
        return load_adapter(self.method, model, self.adapter, self.options, replace(self.context, batches=tuple))

    def elsewhere(self) -> dict[str, torch.Tensor] | None:
        """Return the logits of the saved adapter in another process; None if no process can find the method's class.

        Raises:
            ElsewhereError: it cannot be used there; the message says why.
        """
        place = MethodPlace.of(self.method)
        if place is None:
            return None
        return answers(
            Visit(
                method=place,
                architecture=self.architecture,
                model=model_folder(self.architecture),
                quantization=self.context.quantization,
                options=self.options.model_dump(),
                context=self.context,
                adapter=self.adapter,
                merged=self.merged if self.merged.is_dir() else None,
            )
        )


@contextmanager
def time_limit(what: str, seconds: float | None = None) -> Iterator[None]:
    """Raise TimeoutError if a block takes too long, so that a method that hangs does not stop the check.

    This works in the main thread, and stops what Python runs, not a single long call of a library.

    Args:
        what: the name of the block.
        seconds: the longest time; by default LIMIT_SECONDS.
    """
    limit = LIMIT_SECONDS if seconds is None else seconds
    try:
        with stopped_after(limit, waiting=True):
            yield
    except TooLongError:
        raise TimeoutError(f"{what} took longer than {limit:.0f} seconds") from None
