"""QLoRA: LoRA on a base stored in 4 bits, even if the recipe has another quantization for the other methods."""

from __future__ import annotations

from adapterzoo_plugins.lora import Lora

from adapterzoo import hookimpl


class QLora(Lora):
    """LoRA on an nf4 base."""

    name = "qlora"
    summary = "LoRA on a base stored in 4 bits (nf4)"
    paper = "https://arxiv.org/abs/2305.14314"
    learning_rate_source = (
        "the rate of lora, so that the two rows differ only in the base; the authors' own scripts use 2e-4 for "
        "7B models, with r 64 and alpha 16"
    )
    quantizations = ("nf4",)
    requires_quantization = "nf4"
    mergeable_into = ()  # PEFT can merge into 4 bits, but then rounds the merged weights again


@hookimpl
def adapterzoo_methods() -> list[QLora]:
    """Return the methods of this file."""
    return [QLora()]
