"""LoRA-FA: LoRA whose first matrix, A, is frozen, with gradients corrected for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.lora import Lora, LoraOptions

from adapterzoo import Context, hookimpl

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class LoraFa(Lora):
    """LoRA with frozen A."""

    name = "lora-fa"
    summary = "freezes LoRA's A and trains only B"
    paper = "https://arxiv.org/abs/2308.03303"
    options = LoraOptions
    learning_rate_source = "the rate of lora, so that the two rows differ only in the method"
    departs_from = ("optimizer",)

    def wrap(self, model: nn.Module, options: LoraOptions, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        wrapped = super().wrap(model, options, context)
        for name, parameter in wrapped.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
        return wrapped

    def optimizer(
        self, model: nn.Module, options: LoraOptions, kind: type[Optimizer], settings: dict[str, Any]
    ) -> Optimizer:
        """Return AdamW with gradients corrected for the frozen A, even if the recipe names another optimizer."""
        from peft.optimizers import create_lorafa_optimizer

        optimizer: Optimizer = create_lorafa_optimizer(
            model, options.r, options.lora_alpha, lr=settings["lr"], weight_decay=settings["weight_decay"]
        )
        return optimizer


@hookimpl
def adapterzoo_methods() -> list[LoraFa]:
    """Return the methods of this file."""
    return [LoraFa()]
