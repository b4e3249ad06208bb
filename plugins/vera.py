"""VeRA: frozen random matrices that all layers share, scaled by learned vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from adapterzoo import Context, LinearOptions, PeftMethod, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class VeraOptions(LinearOptions):
    """The options of VeRA."""

    r: int = Field(256, ge=1, description="rank of the random matrices")
    d_initial: float = Field(0.1, description="initial value of the inner scaling vector")
    vera_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    projection_prng_key: int = Field(0, ge=0, description="seed of the random matrices")


class Vera(PeftMethod[VeraOptions]):
    """Vector-based random matrix adaptation."""

    name = "vera"
    summary = "scales shared frozen random matrices"
    paper = "https://arxiv.org/abs/2310.11454"
    group = "shared projections"
    options = VeraOptions
    learning_rate = 1e-3
    learning_rate_source = "PEFT's method comparison (vera/llama-3.2-3B-default), with its r"
    size_option = "r"
    token_wise = True

    def peft_config(self, model: nn.Module, options: VeraOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import VeraConfig

        return VeraConfig(**options.model_dump())


@hookimpl
def adapterzoo_methods() -> list[Vera]:
    """Return the methods of this file."""
    return [Vera()]
