"""rsLoRA: LoRA whose update is divided by the root of the rank, not by the rank, so that high ranks learn as fast."""

from __future__ import annotations

from adapterzoo_plugins.lora import ExpertOptions, Lora
from pydantic import Field

from adapterzoo import hookimpl


class RsloraOptions(ExpertOptions):
    """The options of rsLoRA."""

    # At rank 8 this gives a factor of 5.7. LoRA's own factor is 4, and LoRA's alpha of 32 would give 11.
    lora_alpha: float = Field(16.0, gt=0, description="the update is scaled by lora_alpha / √r")


class Rslora(Lora):
    """Rank-stabilized LoRA."""

    name = "rslora"
    summary = "LoRA scaled by alpha over the root of r"
    paper = "https://arxiv.org/abs/2312.03732"
    options = RsloraOptions
    learning_rate_source = "the rate of lora, with an alpha that gives a similar scale at the default rank"
    variant = {"use_rslora": True}  # noqa: RUF012  # it never changes


@hookimpl
def adapterzoo_methods() -> list[Rslora]:
    """Return the methods of this file."""
    return [Rslora()]
