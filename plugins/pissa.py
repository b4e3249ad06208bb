"""PiSSA: LoRA that begins with each weight's main singular vectors, and leaves the rest to the base."""

from __future__ import annotations

from adapterzoo_plugins._mutating import MutatingLora

from adapterzoo import hookimpl


class Pissa(MutatingLora):
    """Principal singular values and vectors adaptation."""

    name = "pissa"
    summary = "starts LoRA from main singular vectors"
    paper = "https://arxiv.org/abs/2404.02948"
    learning_rate_source = "as lora's, so that the two rows differ in the method alone"
    variant = {"init_lora_weights": "pissa"}  # noqa: RUF012  # a constant


@hookimpl
def adapterzoo_methods() -> list[Pissa]:
    """The methods of this file."""
    return [Pissa()]
