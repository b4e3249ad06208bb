"""OLoRA: LoRA that starts from an orthonormal part of each weight, found by QR decomposition."""

from __future__ import annotations

from adapterzoo_plugins._mutating import MutatingLora

from adapterzoo import hookimpl


class Olora(MutatingLora):
    """Orthonormal low-rank adaptation."""

    name = "olora"
    summary = "starts LoRA from a QR split of weights"
    paper = "https://arxiv.org/abs/2406.01775"
    learning_rate_source = "the rate of lora, so that the two rows differ only in the method"
    variant = {"init_lora_weights": "olora"}  # noqa: RUF012  # it never changes


@hookimpl
def adapterzoo_methods() -> list[Olora]:
    """Return the methods of this file."""
    return [Olora()]
