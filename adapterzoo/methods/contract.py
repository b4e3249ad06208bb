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

        def peft_config(self, model, options, context):
            from peft import LoraConfig

            return LoraConfig(r=options.r, target_modules=options.target_modules)


    @hookimpl
    def adapterzoo_methods():
        return [MyMethod()]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from adapterzoo.errors import PluginError, Problem

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import TrainerCallback

QUANTIZATIONS = ("none", "int8", "nf4")
# Raised when a plugin needs something of this file that earlier versions have not.
CONTRACT = 2
# What stands beside a method's options in a recipe.
ENTRY_KEYS = frozenset({"name", "label", "learning_rate"})
# Labels of the rows for the untouched base, and a file in the output folder: no method or entry may have such a name.
RESERVED_LABEL = re.compile(r"base(-\d+-shot)?|recipe\.yaml", re.IGNORECASE)
GROUPS = (
    "low-rank",
    "shared projections",
    "orthogonal",
    "spectral",
    "sparse and scaling",
    "prompt",
    "mixture",
    "full",
    "other",
)


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

    quantization: str
    """how the base model is stored: ``none``, ``int8`` or ``nf4``"""
    total_steps: int
    """optimizer steps of the whole training"""
    gradient_accumulation: int
    """forward passes whose gradients are added up for one optimizer step"""
    seed: int
    batches: Callable[[], Iterable[dict[str, Any]]] = tuple
    """training batches, for a method that begins from the data: what the model's ``forward`` is called with,
    with ``labels``. In another order than training takes, on the CPU, and none while a recipe is only checked."""


class Method(Generic[OptionsT]):
    """An adapter method.

    Subclass :class:`PeftMethod` where PEFT has the layers, :class:`LayerMethod` where you write the layer that
    goes around a linear one, and this where neither fits.
    """

    contract: ClassVar[int] = CONTRACT
    """the version of this contract that it needs: a plugin for a newer adapterzoo is refused with that reason"""

    name: ClassVar[str]
    """lower-case, as users write it in a recipe"""
    summary: ClassVar[str]
    """one line"""
    paper: ClassVar[str]
    """address of the paper"""
    group: ClassVar[str] = "other"
    """the family it is listed under: one of ``GROUPS``"""
    unavailable: ClassVar[str | None] = None
    """why it cannot train a causal language model: it is listed with this reason, and refused in recipes"""
    options: type[OptionsT]
    """the pydantic model of its options"""
    learning_rate: ClassVar[float]
    """used where the recipe says ``auto``: methods differ by a factor of 50 in the rate they want"""
    learning_rate_source: ClassVar[str]
    """who found that rate, and on what"""
    stands_for: ClassVar[Sequence[str]] = ()
    """names of fallbacks that it makes superfluous, beside its own"""
    fallback: ClassVar[bool] = False
    """whether it silently gives way to another method of its name"""
    quantizations: ClassVar[Sequence[str]] = QUANTIZATIONS
    """quantizations of the base that it trains on"""
    requires_quantization: ClassVar[str | None] = None
    """the quantization that is loaded for it whatever the recipe says"""
    mergeable_into: ClassVar[Sequence[str]] = ("none",)
    """quantizations of the base into which it merges without changing the answers"""
    size_option: ClassVar[str | None] = None
    """the option that sets how many parameters it trains"""
    resumes: ClassVar[bool] = True
    """whether training that goes on from a checkpoint ends with the same weights"""
    starts_at_base: ClassVar[bool] = True
    """whether the wrapped model answers like the base before it is trained"""
    changes_base: ClassVar[bool] = False
    """whether it changes weights of the base; they are loaded again for the next cell"""
    reads_data: ClassVar[bool] = False
    """whether it looks at training rows before training"""
    token_wise: ClassVar[bool] = False
    """whether it treats each token by itself: draws no random numbers, looks at no other token, and puts no prompt in
    front. Then the tokens that all rows of a batch begin with go through the model once, not once a row"""
    prepends_tokens: ClassVar[bool] = False
    """whether it puts learned tokens in front of a sequence: rows that are packed into one have only one front"""

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """What cannot work with these options on this architecture.

        ``skeleton`` is the model without weights (all parameters on the meta device).
        """
        return []

    def resized(self, options: OptionsT, size: int) -> dict[str, Any]:
        """What changes in the options where ``size_option`` becomes ``size``, for a budget of trained parameters.

        To be overridden where other options go with it: a rank to end with, say.
        """
        return {self.size_option or "": size}

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """Put the adapter on: returns the model to train, with only the adapter's parameters trainable.

        The runner has seeded every random generator right before, and takes the adapter off again afterwards
        by putting every module of ``model`` back as it was.
        """
        raise NotImplementedError

    def callbacks(self, options: OptionsT, context: Context) -> list[TrainerCallback]:
        """Callbacks for the trainer, for a method that acts during training."""
        return []

    def optimizer(
        self, model: nn.Module, options: OptionsT, kind: type[Optimizer], settings: dict[str, Any]
    ) -> Optimizer | None:
        """An optimizer of the method's own; None for the recipe's.

        Args:
            model: as ``wrap`` returned it.
            options: the method's options.
            kind: the recipe's optimizer, ``kind(parameters or groups of them, **settings)``.
            settings: its arguments: ``lr``, ``weight_decay``, and what else that optimizer takes.
        """
        return None

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter of a wrapped model to ``folder``, as safetensors."""
        raise NotImplementedError

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """Put a saved adapter on an untouched base: returns the model that answers."""
        raise NotImplementedError

    def merge(self, model: nn.Module) -> nn.Module:
        """The base with the adapter worked into its weights: the model that ``wrap`` was given, with no adapter."""
        raise NotImplementedError

    def findings(self, model: nn.Module) -> dict[str, Any]:
        """What training found out that the results should tell, like the ranks it settled on.

        ``adjusted`` (option -> what it became, and where) is shown below the table.
        """
        return {}


def attributes() -> dict[str, Any]:
    """Return the attributes by which a method describes itself, each with its type, in the order of the contract."""
    hints = get_type_hints(Method)
    return {name: get_args(hint)[0] for name, hint in hints.items() if get_origin(hint) is ClassVar}


def why_not_trainable(method: Method[Any], quantization: str) -> tuple[str, str] | None:
    """Return what keeps a method from being trained, as the end of a sentence about it, and a hint.

    Args:
        method: which.
        quantization: the recipe's. A method that requires one of its own is given that one.

    Returns:
        None where it can be trained, and where the recipe names no quantization at all, which its own check reports.
    """
    if method.unavailable:
        return f"cannot be trained here: {method.unavailable}.", ""
    needed = method.requires_quantization or quantization
    if needed not in QUANTIZATIONS or needed in method.quantizations:
        return None
    return f"cannot train on a base with quantization {needed}.", f"It trains on: {', '.join(method.quantizations)}."


def checked_wrap(method: Method[Any], model: nn.Module, options: Any, context: Context) -> nn.Module:
    """Return what :meth:`Method.wrap` returns, once it is known to be a model.

    Raises:
        PluginError: it is no model.
    """
    from torch.nn import Module

    wrapped = method.wrap(model, options, context)
    if not isinstance(wrapped, Module):
        raise PluginError(f"wrap() of {method.name} returned {wrapped!r}, not a model")
    return wrapped


def find_problems(method: Method[Any], skeleton: nn.Module, options: Any, context: Context) -> list[Problem]:
    """Return what :meth:`Method.problems` returns, once it is known to be a list of problems.

    Raises:
        PluginError: it raised, or returned something else than a list of problems.
    """
    try:
        found = method.problems(skeleton, options, context)
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        raise PluginError(f"problems() of {method.name} raised {type(error).__name__}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(problem, Problem) for problem in found):
        raise PluginError(f"problems() of {method.name} returned {found!r}, not a list of problems")
    return found
