"""LoRA+: LoRA whose second matrix learns at a higher rate than its first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.lora import Lora, LoraOptions
from pydantic import Field

from adapterzoo import hookimpl

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class LoraplusOptions(LoraOptions):
    """Options of LoRA+."""

    loraplus_lr_ratio: float = Field(16.0, ge=1, description="B's learning rate, as a multiple of A's")


class Loraplus(Lora):
    """LoRA with two learning rates."""

    name = "loraplus"
    summary = "trains LoRA's B at a higher learning rate"
    paper = "https://arxiv.org/abs/2402.12354"
    options = LoraplusOptions
    learning_rate = 5e-5
    learning_rate_source = "A's; the authors' README, which has it with a ratio of 20, and PEFT's guide, with 16"

    def optimizer(
        self, model: nn.Module, options: LoraOptions, kind: type[Optimizer], settings: dict[str, Any]
    ) -> Optimizer:
        """The recipe's optimizer, with a group of parameters for each rate."""
        from peft.optimizers import create_loraplus_optimizer

        assert isinstance(options, LoraplusOptions)
        decay = {name: value for name, value in settings.items() if name != "weight_decay"}
        made: Optimizer = create_loraplus_optimizer(
            model,
            kind,
            loraplus_lr_ratio=options.loraplus_lr_ratio,
            loraplus_weight_decay=settings["weight_decay"],
            **decay,
        )
        return made


@hookimpl
def adapterzoo_methods() -> list[Loraplus]:
    """The methods of this file."""
    return [Loraplus()]
