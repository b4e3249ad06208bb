"""IA3 and LoRA together: a method made of two other methods.

LoRA's update is inside of IA3's factors: keys and values are ``l·(W·x + s·B·A·x)``. PEFT cannot mix IA3 with others.
So IA3 is PEFT's, and LoRA is ``lora-scratch``, whose layers go inside PEFT's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from adapterzoo import Context, Method, Options, Problem, hookimpl, registry, trained

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import TrainerCallback


class Ia3LoraOptions(Options):
    """The options of IA3 with LoRA: those of LoRA."""

    r: int = Field(8, ge=1, description="rank of LoRA's update")
    lora_alpha: float = Field(32.0, gt=0, description="LoRA's update is scaled by lora_alpha / r")


class Ia3Lora(Method[Ia3LoraOptions]):
    """IA3's factors on layers with LoRA's updates."""

    name = "ia3-lora"
    summary = "IA3's factors and LoRA's updates together"
    paper = "https://arxiv.org/abs/2205.05638"
    options = Ia3LoraOptions
    learning_rate = 3e-4
    learning_rate_source = (
        "the rate of lora; IA3's factors get a rate that is higher by the ratio of the rates of ia3 and lora"
    )
    departs_from = ("learning rate", "between steps")  # the second where ia3 does
    size_option = "r"
    token_wise = True

    def problems(self, skeleton: nn.Module, options: Ia3LoraOptions, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        ia3, _ = _parts()
        problems = ia3.problems(skeleton, ia3.options(), context)
        # The hints of ia3 name options that this method does not have.
        hint = "Leave the method out, or choose another model."
        return [replace(problem, where="model", hint=hint) for problem in problems]

    def wrap(self, model: nn.Module, options: Ia3LoraOptions, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        ia3, lora = _parts()
        wrapped: Any = ia3.wrap(model, ia3.options(), context)
        wrapped.beside_lora = list(trained(wrapped).values())  # the factors, and PEFT's copy of a new head
        lora.wrap(model, lora.options(**options.model_dump()), context)  # it freezes everything else
        return _with_gradients(wrapped, True)

    def callbacks(self, options: Ia3LoraOptions, context: Context) -> list[TrainerCallback]:
        """See :meth:`Method.callbacks`."""
        ia3, _ = _parts()
        return ia3.callbacks(ia3.options(), context)

    def optimizer(
        self, model: nn.Module, options: Ia3LoraOptions, kind: type[Optimizer], settings: dict[str, Any]
    ) -> Optimizer:
        """Return the recipe's optimizer, with a higher learning rate for IA3's factors."""
        ia3, lora = _parts()
        factors = {name: parameter for name, parameter in trained(model).items() if ".ia3_l." in name}
        others = [parameter for name, parameter in trained(model).items() if name not in factors]
        rate = settings["lr"] * ia3.learning_rate / lora.learning_rate
        return kind([{"params": others}, {"params": [*factors.values()], "lr": rate}], **settings)

    def save(self, model: Any, folder: Path) -> None:
        """See :meth:`Method.save`: LoRA is in the folder, and IA3 in its subfolder ``ia3``."""
        ia3, lora = _parts()
        ia3.save(model, folder / "ia3")
        lora.save(_with_gradients(model, False).get_base_model(), folder)  # it saves all that has gradients
        _with_gradients(model, True)

    def load(self, model: nn.Module, folder: Path, options: Ia3LoraOptions, context: Context) -> nn.Module:
        """See :meth:`Method.load`."""
        ia3, lora = _parts()
        loaded = ia3.load(model, folder / "ia3", ia3.options(), context)
        lora.load(model, folder, lora.options(**options.model_dump()), context)
        return loaded

    def merge(self, model: Any) -> nn.Module:
        """See :meth:`Method.merge`."""
        ia3, lora = _parts()
        lora.merge(model.get_base_model())
        return ia3.merge(model)


def _parts() -> tuple[Method[Any], Method[Any]]:
    """Return IA3 and LoRA."""
    return registry()["ia3"], registry()["lora-scratch"]


def _with_gradients(wrapped: Any, wanted: bool) -> Any:
    """Switch the gradients of all parameters that LoRA does not train, and return the model."""
    for parameter in wrapped.beside_lora:
        parameter.requires_grad_(wanted)
    return wrapped


@hookimpl
def adapterzoo_methods() -> list[Ia3Lora]:
    """Return the methods of this file."""
    return [Ia3Lora()]
