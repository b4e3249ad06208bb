"""LoRA+: LoRA whose second matrix, B, has a higher learning rate than its first, A."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.lora import Lora, LoraOptions
from pydantic import Field

from adapterzoo import hookimpl

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class LoraplusOptions(LoraOptions):
    """The options of LoRA+."""

    loraplus_lr_ratio: float = Field(16.0, ge=1, description="B's learning rate, as a multiple of A's")


class Loraplus(Lora):
    """LoRA with two learning rates."""

    name = "loraplus"
    summary = "trains LoRA's B at a higher learning rate"
    paper = "https://arxiv.org/abs/2402.12354"
    options = LoraplusOptions
    learning_rate = 5e-5
    learning_rate_source = "the rate of A in the authors' README, with a ratio of 20, and in PEFT's guide, with 16"
    departs_from = ("learning rate",)

    def optimizer(
        self, model: nn.Module, options: LoraOptions, kind: type[Optimizer], settings: dict[str, Any]
    ) -> Optimizer:
        """Return the recipe's optimizer, with one group of parameters for each learning rate."""
        from peft.optimizers import create_loraplus_optimizer

        assert isinstance(options, LoraplusOptions)
        arguments = {name: value for name, value in settings.items() if name != "weight_decay"}
        optimizer: Optimizer = create_loraplus_optimizer(
            model,
            kind,
            loraplus_lr_ratio=options.loraplus_lr_ratio,
            loraplus_weight_decay=settings["weight_decay"],
            **arguments,
        )
        return optimizer


@hookimpl
def adapterzoo_methods() -> list[Loraplus]:
    """Return the methods of this file."""
    return [Loraplus()]
