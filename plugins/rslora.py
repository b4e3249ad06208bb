"""rsLoRA: LoRA scaled by the root of the rank, so that a higher rank learns no slower."""

from __future__ import annotations

from adapterzoo_plugins.lora import Lora, LoraOptions
from pydantic import Field

from adapterzoo import hookimpl


class RsloraOptions(LoraOptions):
    """Options of rsLoRA."""

    # At rank 8 a factor of 5.7; LoRA's 32 would make it 11, where LoRA has 4.
    lora_alpha: float = Field(16.0, gt=0, description="the update is scaled by lora_alpha / √r")


class Rslora(Lora):
    """Rank-stabilized LoRA."""

    name = "rslora"
    summary = "LoRA scaled by alpha over the root of r"
    paper = "https://arxiv.org/abs/2312.03732"
    options = RsloraOptions
    learning_rate_source = "as lora's, with an alpha that gives a like scale at the default rank"
    variant = {"use_rslora": True}  # noqa: RUF012  # a constant


@hookimpl
def adapterzoo_methods() -> list[Rslora]:
    """The methods of this file."""
    return [Rslora()]
