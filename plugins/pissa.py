"""PiSSA: LoRA that starts from each weight's main singular vectors, and keeps the rest of the weight in the base."""

from __future__ import annotations

from adapterzoo_plugins._mutating import MutatingLora

from adapterzoo import hookimpl


class Pissa(MutatingLora):
    """Principal singular values and vectors adaptation."""

    name = "pissa"
    summary = "starts LoRA from main singular vectors"
    paper = "https://arxiv.org/abs/2404.02948"
    learning_rate_source = "the rate of lora, so that the two rows differ only in the method"
    variant = {"init_lora_weights": "pissa"}  # noqa: RUF012  # it never changes


@hookimpl
def adapterzoo_methods() -> list[Pissa]:
    """Return the methods of this file."""
    return [Pissa()]
