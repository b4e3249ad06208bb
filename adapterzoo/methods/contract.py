"""The method contract: what an adapter method says about itself, and how it wraps a model.

This module does not import torch at its top, and a plugin module must not either, so that ``adapterzoo methods`` lists
all methods without delay. Import torch inside functions. A complete method::

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

from adapterzoo.errors import Problem

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer
    from transformers import TrainerCallback

QUANTIZATIONS = ("none", "int8", "nf4")
"""the quantizations for which each method declares whether it trains on them"""
TASK_TYPES = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""PEFT's names for types of tasks"""
# The version of this contract. It increases when plugins may use something that earlier versions do not have.
CONTRACT = 4
# Attribute of contract 1 -> its name since contract 2.
RENAMED = {"bases": "quantizations", "demands": "requires_quantization", "merges": "mergeable_into"}
# The keys of an entry under ``methods`` in a recipe that are not options of the method.
ENTRY_KEYS = frozenset({"name", "label", "learning_rate"})
# These names are taken by the rows of the untouched base and by a file in the output folder.
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
    """The options of a method, which users write beside its name in a recipe. Unknown options are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the defaults of the options that have one, as a recipe writes them."""
        fields = {name: field for name, field in cls.model_fields.items() if not field.is_required()}
        return cls.model_construct(
            **{name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        ).model_dump(mode="json", include=set(fields))


class LinearOptions(Options):
    """The options of a method that adapts linear layers."""

    target_modules: str | list[str] = Field(
        "all-linear",
        description="'all-linear' (all but the output head), names of layers, or a pattern for whole names",
    )


OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Context:
    """The facts that a method may need about the cell whose model it wraps."""

    quantization: str
    """name of the quantization in which the base model is stored, like ``none``, ``int8`` or ``nf4``"""
    total_steps: int
    """number of optimizer steps of the whole training"""
    gradient_accumulation: int
    """number of forward passes whose gradients are added up for one optimizer step"""
    seed: int
    task_type: str = "CAUSAL_LM"
    """PEFT's name for the type of the task that the model is trained for"""
    summed_losses: int = 1
    """number of forward passes whose losses are added up for one optimizer step: ``gradient_accumulation``, or 1 if
    their mean is taken. A method that adds a term to the loss of each forward pass divides it by this"""
    longest_row: int = 0
    """largest number of tokens that the model reads in one sequence, with an answer; 0 if it is not known"""
    batches: Callable[[], Iterable[dict[str, Any]]] = tuple
    """function that returns training batches on the CPU, for a method that starts from data. The order is not that of
    training; a dry run gets no batch. A batch holds the arguments of the model's ``forward``, mostly tensors:

    - For ``CAUSAL_LM``, rows are padded on the left. ``input_ids``, ``attention_mask`` (0 for padding) and
      ``position_ids`` have the shape (rows, longest row). ``logits_to_keep``, an int, says for how many of the last
      columns the model computes logits, and ``labels`` has only these columns, ``input_ids[:, -logits_to_keep:]``. A
      label is the token in the same column, or -100 if that token is not in the loss; the model shifts the labels.
    - For the other types, rows are padded on the right. ``input_ids`` and ``attention_mask`` have the shape (rows,
      longest row), and so has ``labels`` for ``TOKEN_CLS``. For ``SEQ_CLS`` the shape of ``labels`` is (rows,), or
      (rows, classes) if a text may have several; for ``SEQ_2_SEQ_LM`` it is (rows, longest answer), with -100 for
      padding. For ``QUESTION_ANS`` there are ``start_positions`` and ``end_positions``, (rows,), in place of labels,
      and for ``FEATURE_EXTRACTION`` there are none.

    A task with a loss of its own may give several sequences for each row, tensors of its own, and no labels."""


class Method(Generic[OptionsT]):
    """An adapter method.

    Subclass :class:`PeftMethod` if PEFT has the layers, :class:`LayerMethod` if you write a layer that goes around each
    linear layer, :class:`InsertMethod` if you write a module that goes behind other modules, and this class if none
    fits.
    """

    contract: ClassVar[int] = CONTRACT
    """version of this contract that the method needs; a method that needs a newer adapterzoo is left out"""

    name: ClassVar[str]
    """name in recipes, in lower-case letters"""
    summary: ClassVar[str]
    """what the method does, in one line"""
    paper: ClassVar[str]
    """address of the paper"""
    group: ClassVar[str] = "other"
    """family under which the method is listed: one of ``GROUPS``"""
    unavailable: ClassVar[str | None] = None
    """reason why it cannot train a causal language model; it is then listed with this reason, and refused in recipes"""
    options: type[OptionsT]
    """pydantic model of the method's options"""
    learning_rate: ClassVar[float]
    """learning rate if the recipe says ``auto``; the best rates of two methods can differ by a factor of 50"""
    learning_rate_source: ClassVar[str]
    """who found that rate, and on which model or data"""
    stands_for: ClassVar[Sequence[str]] = ()
    """names of fallback methods that are not listed because this method replaces them"""
    fallback: ClassVar[bool] = False
    """whether another method of the same name replaces this one without a message"""
    quantizations: ClassVar[Sequence[str]] = QUANTIZATIONS
    """quantizations of the base model on which the method can train: some of ``QUANTIZATIONS``, and any others on
    which the conformance kit need not try it first"""
    task_types: ClassVar[Sequence[str]] = TASK_TYPES
    """types of tasks (some of ``TASK_TYPES``) for which it can train a model"""
    requires_quantization: ClassVar[str | None] = None
    """quantization in which the base model is loaded for this method, whatever the recipe says"""
    mergeable_into: ClassVar[Sequence[str]] = ("none",)
    """quantizations of the base model into which it merges without changing the answers"""
    loads_in_peft: ClassVar[bool] = False
    """whether plain PEFT loads a saved adapter on an unquantized base, and then gives the same answers"""
    size_option: ClassVar[str | None] = None
    """name of the option that sets how many parameters are trained"""
    resumes: ClassVar[bool] = True
    """whether training that is resumed from a checkpoint ends with the same weights"""
    starts_at_base: ClassVar[bool] = True
    """whether the wrapped model answers like the base model before it is trained"""
    changes_base: ClassVar[bool] = False
    """whether it changes weights of the base model, which is then loaded again for the next cell"""
    reads_data: ClassVar[bool] = False
    """whether it reads training rows before training"""
    departs_from: ClassVar[Sequence[str]] = ()
    """rules of the comparison (see ``rules.py``) that it departs from by design, for example with a second learning
    rate; a row whose method departs from another rule is not ranked"""
    token_wise: ClassVar[bool] = False
    """whether it treats each token alone: it draws no random numbers, looks at no other token, and puts no tokens in
    front. A prefix that all rows of a batch share then goes through the model once, not once for each row"""
    trains_head_only: ClassVar[bool] = False
    """whether it adapts nothing, so that a task's new head alone is trained; its row takes the place of the base's"""
    prepends_tokens: ClassVar[bool] = False
    """whether it puts learned tokens in front of a row; if rows are packed into one, only the first would get them"""

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """Return what cannot work with these options on this architecture.

        Args:
            skeleton: the base model without weights (all parameters are on the meta device).
            options: the method's options.
            context: facts about the cell.
        """
        return []

    def resized(self, options: OptionsT, size: int) -> dict[str, Any]:
        """Return the options to change so that ``size_option`` becomes ``size``, for a budget of trained parameters.

        Override this if other options have to change with it, like the rank at the end of training.
        """
        return {self.size_option or "": size}

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """Put the adapter on the base model, and return the model to train, in which only the adapter has gradients.

        The runner seeds every random generator right before the call. After the cell it removes the adapter by
        restoring every module of ``model``.
        """
        raise NotImplementedError

    def callbacks(self, options: OptionsT, context: Context) -> list[TrainerCallback]:
        """Return callbacks for the trainer, for a method that acts during training."""
        return []

    def optimizer(
        self, model: nn.Module, options: OptionsT, kind: type[Optimizer], settings: dict[str, Any]
    ) -> Optimizer | None:
        """Return the method's own optimizer, or None for the recipe's.

        Args:
            model: the model that ``wrap`` returned.
            options: the method's options.
            kind: the class of the recipe's optimizer; call it with parameters, or groups of them, and ``**settings``.
            settings: the arguments of that optimizer: ``lr``, ``weight_decay`` and further ones.
        """
        return None

    def training_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return what training needs to go on from a checkpoint, beside parameters and buffers: name -> tensor."""
        return {}

    def restore_training_state(self, model: nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Take what :meth:`training_state` returned when a checkpoint was written.

        Args:
            model: the model that ``wrap`` returned; its parameters and buffers are already those of the checkpoint.
            state: name -> tensor, on the CPU.
        """

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter of a wrapped model to ``folder``, as safetensors."""
        raise NotImplementedError

    def load(self, model: nn.Module, folder: Path, options: OptionsT, context: Context) -> nn.Module:
        """Put a saved adapter on an untouched base model, and return the model that answers.

        This runs in another process than the training, perhaps years later and on another machine, and the folder may
        have been moved.

        Args:
            model: the base model, perhaps with another quantization than in training.
            folder: the folder that :meth:`save` wrote.
            options: the options with which the adapter was trained.
            context: the facts of the training, with the quantization of ``model``, and without batches.
        """
        raise NotImplementedError

    def merge(self, model: nn.Module) -> nn.Module:
        """Add the adapter of a wrapped model to the base model's weights, and return the base model.

        A large model is merged in parts: only some layers then have content, and the others are on the meta device. If
        this raises an error, the method is called again with the whole model.
        """
        raise NotImplementedError

    def findings(self, model: nn.Module) -> dict[str, Any]:
        """Return what training found that belongs in the results, like the final rank of each layer.

        The key ``adjusted`` (option -> its new value, and in which layers) is shown below the table.
        """
        return {}


def attributes() -> dict[str, Any]:
    """Return the attributes by which a method describes itself, as name -> type, in the order of the contract."""
    hints = get_type_hints(Method)
    return {name: get_args(hint)[0] for name, hint in hints.items() if get_origin(hint) is ClassVar}
