"""OLoRA: LoRA that begins with an orthonormal part of each weight, by QR decomposition."""

from __future__ import annotations

from adapterzoo_plugins._mutating import MutatingLora

from adapterzoo import hookimpl


class Olora(MutatingLora):
    """Orthonormal low-rank adaptation."""

    name = "olora"
    summary = "starts LoRA from a QR split of weights"
    paper = "https://arxiv.org/abs/2406.01775"
    learning_rate_source = "as lora's, so that the two rows differ in the method alone"
    variant = {"init_lora_weights": "olora"}  # noqa: RUF012  # a constant


@hookimpl
def adapterzoo_methods() -> list[Olora]:
    """The methods of this file."""
    return [Olora()]
