"""DoRA: LoRA for the direction of each weight, and a learned vector for its magnitude."""

from __future__ import annotations

from adapterzoo_plugins.lora import Lora, LoraOptions

from adapterzoo import hookimpl


class Dora(Lora):
    """Weight-decomposed low-rank adaptation."""

    name = "dora"
    summary = "LoRA for direction, learned magnitudes"
    paper = "https://arxiv.org/abs/2402.09353"
    options = LoraOptions  # PEFT's layer for fused experts has no magnitudes
    learning_rate_source = "the rate of lora, so that the two rows differ only in the method"
    quantizations = ("none", "nf4")  # on int8, PEFT's layer fails if the base was used before
    mergeable_into = ("none",)
    variant = {"use_dora": True}  # noqa: RUF012  # it never changes


@hookimpl
def adapterzoo_methods() -> list[Dora]:
    """Return the methods of this file."""
    return [Dora()]
