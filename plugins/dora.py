"""DoRA: LoRA for the direction of each weight, and a learned vector for its magnitude."""

from __future__ import annotations

from adapterzoo_plugins.lora import Lora

from adapterzoo import hookimpl


class Dora(Lora):
    """Weight-decomposed low-rank adaptation."""

    name = "dora"
    summary = "LoRA for direction, learned magnitudes"
    paper = "https://arxiv.org/abs/2402.09353"
    learning_rate_source = "as lora's, so that the two rows differ in the method alone"
    quantizations = ("none", "nf4")  # over int8 PEFT's layer fails as soon as the base has answered before
    mergeable_into = ("none",)
    variant = {"use_dora": True}  # noqa: RUF012  # a constant


@hookimpl
def adapterzoo_methods() -> list[Dora]:
    """The methods of this file."""
    return [Dora()]
