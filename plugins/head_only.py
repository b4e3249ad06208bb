"""Head only: the base model stays frozen, and a task's new head alone is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo import Context, Method, Options, hookimpl

if TYPE_CHECKING:
    from torch import nn


class HeadOnly(Method[Options]):
    """The row that shows what the base model can do for a task whose head is new."""

    name = "head-only"
    summary = "no adapter: the base model is frozen, and only the task's new head is trained"
    paper = "https://arxiv.org/abs/1903.05987"
    group = "other"
    options = Options
    learning_rate = 1e-3
    learning_rate_source = "common for a linear layer on frozen features; tune it for your data"
    task_types = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
    mergeable_into = ("none", "int8", "nf4")
    token_wise = True
    trains_head_only = True

    def wrap(self, model: nn.Module, options: Options, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`: there is nothing to put on the base model."""
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        """See :meth:`Method.save`: the head is saved by adapterzoo."""
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, model: nn.Module, folder: Path, options: Options, context: Context) -> nn.Module:
        """See :meth:`Method.load`."""
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        """See :meth:`Method.merge`."""
        return model


@hookimpl
def adapterzoo_methods() -> list[Method[Options]]:
    """Return the method of this module."""
    return [HeadOnly()]
