"""The method contract: what an adapter method says about itself, and how it wraps a model.

Nothing here imports torch, and a plugin module must not either, outside its functions: ``adapterzoo methods``
lists every method in the blink of an eye. A complete method::

    from pydantic import Field

    from adapterzoo import LinearOptions, PeftMethod, hookimpl


    class MyOptions(LinearOptions):
        r: int = Field(8, ge=1, description="rank of the update")


    class MyMethod(PeftMethod[MyOptions]):
        name = "my-method"
        summary = "what it does, in one line"
        paper = "https://arxiv.org/abs/..."
        options = MyOptions
        learning_rate = 3e-4
        learning_rate_source = "table 5 of the paper"

        def peft_config(self, options, context):
            from peft import LoraConfig

            return LoraConfig(r=options.r, target_modules=options.target_modules)


    @hookimpl
    def adapterzoo_methods():
        return [MyMethod()]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from adapterzoo.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import TrainerCallback

BASES = ("none", "int8", "nf4")


class Options(BaseModel):
    """A method's options: users write them under the method's name. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LinearOptions(Options):
    """Options of a method that adapts linear layers."""

    target_modules: str | list[str] = Field(
        "all-linear",
        description="'all-linear' (all but the output head), names of layers, or a pattern for whole names",
    )


OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Context:
    """What a method may need to know about the cell it is wrapped for."""

    base: str
    """the quantization of the base: ``none``, ``int8`` or ``nf4``"""
    total_steps: int
    """optimizer steps of the whole training"""
    gradient_accumulation: int
    """forward passes whose gradients are added up for one optimizer step"""
    seed: int


class Method(Generic[OptionsT]):
    """An adapter method. Subclass it, or :class:`PeftMethod` where PEFT has the layers."""

    name: ClassVar[str]
    """lower-case, as users write it in a recipe"""
    summary: ClassVar[str]
    """one line"""
    paper: ClassVar[str]
    """address of the paper"""
    options: type[OptionsT]
    """the pydantic model of its options"""
    learning_rate: ClassVar[float]
    """used where the recipe says ``auto``: methods differ by a factor of 50 in the rate they want"""
    learning_rate_source: ClassVar[str]
    """who found that rate, and on what"""
    bases: ClassVar[Sequence[str]] = BASES
    """quantizations of the base that it trains on"""
    demands: ClassVar[str | None] = None
    """the quantization that is loaded for it whatever the recipe says"""
    merges: ClassVar[Sequence[str]] = ("none",)
    """quantizations of the base into which it merges without changing the answers"""
    size_option: ClassVar[str | None] = None
    """the option that sets how many parameters it trains"""
    resumes: ClassVar[bool] = True
    """whether training that goes on from a checkpoint ends with the same weights"""

    def base_for(self, quantization: str) -> str:
        """The quantization of the base it trains on in a recipe that says ``quantization``."""
        return self.demands or quantization

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """What cannot work with these options on this architecture.

        ``skeleton`` is the model without weights (all parameters on the meta device).
        """
        return []

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """Put the adapter on: returns the model to train, with only the adapter's parameters trainable.

        The runner has seeded every random generator right before, and takes the adapter off again afterwards
        by putting every module of ``model`` back as it was.
        """
        raise NotImplementedError

    def callbacks(self, options: OptionsT, context: Context) -> list[TrainerCallback]:
        """Callbacks for the trainer, for a method that acts during training."""
        return []

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter of a wrapped model to ``folder``, as safetensors."""
        raise NotImplementedError

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """Put a saved adapter on an untouched base: returns the model that answers."""
        raise NotImplementedError

    def findings(self, model: nn.Module) -> dict[str, Any]:
        """What training found out that the results should tell, like the ranks it settled on."""
        return {}


class PeftMethod(Method[OptionsT]):
    """A method whose layers are PEFT's: it only has to give the ``PeftConfig``."""

    def peft_config(self, options: OptionsT, context: Context) -> PeftConfig:
        """The PEFT configuration of these options."""
        raise NotImplementedError

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Held while PEFT puts layers into a model; a method whose layers need mending mends them here."""
        yield

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """Names in ``target_modules`` of which one matches nothing: PEFT takes them in silence."""
        targets = getattr(options, "target_modules", None)
        if targets is None or targets == "all-linear":
            return []
        there = linear_layers(skeleton)
        last_names = {name.rpartition(".")[2] for name in there}
        if not targets:
            return [Problem("target_modules", "is empty.", f"There is: {', '.join(sorted(last_names))}.")]
        if isinstance(targets, str) and not targeted(skeleton, targets):
            hint = did_you_mean(targets, {"all-linear", *last_names})
            return [Problem("target_modules", f"'{targets}' is no pattern that matches a layer's whole name.", hint)]
        return [
            Problem("target_modules", f"'{target}' matches no layer.", did_you_mean(target, last_names))
            for target in ([] if isinstance(targets, str) else targets)
            if not targeted(skeleton, [target])
        ]

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        from peft import get_peft_model

        with self.layers():
            return _keep_dtype(get_peft_model(model, self.peft_config(options, context)))

    def save(self, model: nn.Module, folder: Path) -> None:
        """See :meth:`Method.save`. Plain ``PeftModel.from_pretrained`` loads it."""
        # Left on "auto", PEFT asks the hub whether the vocabulary was resized.
        model.save_pretrained(str(folder), save_embedding_layers=False)

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """See :meth:`Method.load`."""
        from peft import PeftModel

        with self.layers():
            return _keep_dtype(PeftModel.from_pretrained(model, str(folder)))


def _keep_dtype(model: nn.Module) -> nn.Module:
    """Make every adapted layer answer in the dtype it was asked in.

    Over quantized bases some of PEFT's layers answer in float32, and the next layer of a bfloat16 model crashes.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    def cast(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        return output.to(arguments[0].dtype) if arguments[0].is_floating_point() else output

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_hook(cast)
    return model


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a model by their full names, the output head left out."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def targeted(model: nn.Module, targets: str | list[str]) -> dict[str, nn.Module]:
    """The linear layers that ``target_modules`` means, as PEFT reads it: ends of names, or a pattern for all of one."""
    there = linear_layers(model)
    if targets == "all-linear":
        return there
    if isinstance(targets, str):
        try:
            return {name: layer for name, layer in there.items() if re.fullmatch(targets, name)}
        except re.error:
            return {}
    ends = tuple(f".{target}" for target in targets)
    return {name: layer for name, layer in there.items() if name in targets or name.endswith(ends)}
