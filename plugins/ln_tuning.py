"""LN tuning: only the weights of the normalization layers are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapterzoo_plugins._float32 import Float32Method

from adapterzoo import Context, Options, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class LnTuning(Float32Method[Options]):
    """Layer norm tuning."""

    name = "ln-tuning"
    summary = "trains only the layer-norm weights"
    paper = "https://arxiv.org/abs/2312.11420"
    group = "sparse and scaling"
    options = Options
    learning_rate = 5e-3
    learning_rate_source = "the rate of ia3, which trains vectors of factors too; no rate for text is published"

    def peft_config(self, model: nn.Module, options: Options, context: Context) -> PeftConfig:
        """Return a configuration for all norms, found by their class: PEFT's own table of names is not complete."""
        from peft import LNTuningConfig

        norms = [name for name, module in model.named_modules() if type(module).__name__.endswith("Norm")]
        return LNTuningConfig(target_modules=norms)

    def trained_modules(self, model: nn.Module) -> Iterator[nn.Module]:
        """See :meth:`Float32Method.trained_modules`."""
        return (
            layers["default"] for module in model.modules() if (layers := getattr(module, "ln_tuning_layers", None))
        )


@hookimpl
def adapterzoo_methods() -> list[LnTuning]:
    """Return the methods of this file."""
    return [LnTuning()]
