"""QLoRA: LoRA on a base stored in 4 bits, whatever base the others get."""

from __future__ import annotations

from adapterzoo_plugins.lora import Lora

from adapterzoo import hookimpl


class QLora(Lora):
    """LoRA over an nf4 base."""

    name = "qlora"
    summary = "LoRA on a base stored in 4 bits (nf4)"
    paper = "https://arxiv.org/abs/2305.14314"
    learning_rate_source = (
        "as lora's, so that the two rows differ in the base alone; the authors' own scripts have 2e-4 at 7B, "
        "with r 64 and alpha 16"
    )
    quantizations = ("nf4",)
    requires_quantization = "nf4"
    mergeable_into = ()  # PEFT merges into 4 bits, but rounds the merged weights again


@hookimpl
def adapterzoo_methods() -> list[QLora]:
    """The methods of this file."""
    return [QLora()]
