"""A trainer whose optimizer, gradients and weights DeepSpeed divides among the ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from adapterzoo.recipe.train import ZERO_STAGES
from adapterzoo.training.trainer import TaskTrainer
from adapterzoo.training.zero import Zero, ended


class ZeroTrainer(TaskTrainer):
    """A :class:`TaskTrainer` that lets DeepSpeed do the backward passes and the steps."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.stage = ZERO_STAGES[settings["sharding"]]
        self._zeros: list[Zero] = []
        """DeepSpeed's engine, once there is an optimizer"""

    @property
    def zero(self) -> Zero:
        """DeepSpeed's engine."""
        return self._zeros[0]

    def divided(self) -> AbstractContextManager[None]:
        """See :meth:`TaskTrainer.divided`."""
        return ended(self._zeros)

    def spreading(self) -> AbstractContextManager[None]:
        """See :meth:`TaskTrainer.spreading`: DeepSpeed wants all ranks to compute all layers together."""
        return nullcontext()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the usual optimizer, and divide it and the model."""
        own = super().create_optimizer(model)
        shows = bool(self.part.callbacks)
        self._zeros.append(Zero(self.model, own, self.stage, self.args.max_grad_norm, shows_gradients=shows))
        self.optimizer = self.zero.optimizer
        self.watch.set_divided(self.optimizer, own)
        # This is where accelerate itself calls DeepSpeed; it would do so on GPUs alone.
        self.accelerator.backward = self._backward
        return self.optimizer

    def _backward(self, loss: torch.Tensor, **unused: Any) -> None:
        self.zero.backward(loss, last=self.accelerator.sync_gradients)

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        pass  # DeepSpeed has sent the weights of rank 0 to all

    def average_gradients(self) -> None:
        """Do nothing: DeepSpeed averages gradients."""

    def _clip_grad_norm(self, model: Any) -> float:
        return 0.0  # DeepSpeed clips in the step, and then knows the norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        return 0.0

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        norm = self.zero.gradient_norm()
        self.watch.note_norm(min(norm, self.args.max_grad_norm))
        self.zero.take_changes()
        super()._maybe_log_save_evaluate(tr_loss, norm, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with self.zero.whole():
            super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self.zero.save_part(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.zero.load_part(Path(checkpoint))
