"""The task contract: which rows a task takes, which model it trains, and what it can measure.

A task has two parts. :class:`Task` describes it. It is made without torch, so that recipes are checked without delay.
Its ``encode`` returns :class:`~adapterzoo.tasks.examples.Examples`, which hold the rows as tokens, and know how a model
is trained and measured on them. A plugin gives its tasks through a hook, like methods and metrics::

    from adapterzoo import hookimpl


    @hookimpl
    def adapterzoo_tasks():
        return [MyTask()]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol

from adapterzoo.data_row import DataRow
from adapterzoo.errors import Problem
from adapterzoo.formats import Format
from adapterzoo.methods.contract import OptionsT
from adapterzoo.tasks.examples import Examples

TASK_KEYS = ("template", "system", "chat_template", "loss_on", "truncate", "packing")
"""keys of a recipe's ``data`` section that only some tasks use"""

MODEL_KINDS = {
    "AutoModelForCausalLM": "a causal language model",
    "AutoModelForSeq2SeqLM": "an encoder-decoder model",
}
"""class of transformers -> the kind of model that it loads, for messages"""


class DataSettings(Protocol):
    """The settings of a recipe's ``data`` section that a task may use; docs/recipe.md explains them."""

    system: str | None
    chat_template: str
    loss_on: Any
    max_length: int
    truncate: Any
    packing: bool


class Rows(Protocol):
    """The rows of each split."""

    @property
    def train(self) -> Sequence[DataRow]:
        """Return the training rows."""

    @property
    def validation(self) -> Sequence[DataRow]:
        """Return the validation rows."""

    @property
    def test(self) -> Sequence[DataRow]:
        """Return the test rows."""

    @property
    def fingerprint(self) -> str:
        """Return a hash of the content of all rows."""


@dataclass(frozen=True)
class EncodeInput(Generic[OptionsT]):
    """The rows that a task encodes, and all that it needs for that."""

    tokenizer: Any
    """the model's tokenizer"""
    rows: Rows
    options: OptionsT
    """options of the task"""
    data: DataSettings
    """settings of the recipe"""
    say: Callable[[str], None]
    """is called with messages about rows that were cut or left out"""
    shots: int = 0
    """number of training examples to show in front of test prompts; 0 if the task is not ``causal``"""
    config: Any = None
    """the model's configuration, as transformers loads it"""
    task: Task[Any] | None = None
    """the task; what is kept of its examples on disk is not used for another one, or after its code has changed"""


class Task(ABC, Generic[OptionsT]):
    """A task: what a model is trained for."""

    name: ClassVar[str]
    """name in recipes, in lower-case letters"""
    summary: ClassVar[str]
    """what is learned, in one line"""
    options: type[OptionsT]
    """pydantic model of the task's options"""
    model_class: ClassVar[str]
    """name of the class of transformers that loads the model"""
    task_type: ClassVar[str]
    """PEFT's name for this type of task: one of ``TASK_TYPES`` in methods/contract.py"""
    formats: ClassVar[Mapping[str, Format]]
    """name -> format of data rows"""
    metrics: ClassVar[Sequence[str]]
    """metrics that are measured if the recipe names none; the table is ordered by the first"""
    new_head: ClassVar[bool] = False
    """whether it puts a new head on the base model. There is then no row of the untouched base; its place is taken by
    a method that trains nothing but that head"""
    measured: ClassVar[Sequence[str]] = ()
    """metrics that the task measures itself, because they need the model and not its answers"""
    compares_answers: ClassVar[bool] = True
    """whether its predictions are texts, which any metric can compare with the references"""
    uses: ClassVar[Sequence[str]] = ()
    """those of ``TASK_KEYS`` that it uses; a recipe with one of the others is refused"""
    causal: ClassVar[bool] = False
    """whether its model is a causal language model that learns from texts, and its examples are
    :class:`~adapterzoo.tokens.encoded.Encoded`. General text can then be measured, training examples can be shown in
    front of test prompts, and rows with the same beginning can be joined"""

    from_disk: ClassVar[bool] = False
    """whether its training rows may stay on disk if they are too many for the memory: it reads them one after the
    other, and with :func:`adapterzoo.tokens.kept_examples.read_splits`. A ``causal`` task gets the rows of all splits
    from disk without it, and the rows of other tasks are held in memory"""

    def packages(self, options: OptionsT) -> Sequence[str]:
        """Return the packages that losses and scores come from: rows are comparable only with the same versions."""
        return ()

    def default_metrics(self, rows: Rows, options: OptionsT) -> Sequence[str]:
        """Return the metrics that are measured if the recipe names none; by default ``metrics``."""
        return self.metrics

    def model_problems(self, config: Any) -> list[Problem]:
        """Return why a model cannot be trained for this task, as far as its configuration shows it.

        By default, transformers must be able to load it as ``model_class``, and a ``causal`` task takes no encoder.

        Args:
            config: the model's configuration, as transformers loads it.
        """
        import transformers

        known = getattr(getattr(transformers, self.model_class), "_model_mapping", None)
        own_code = self.model_class in (getattr(config, "auto_map", None) or {})
        loads = known is None or own_code or type(config) in known
        if loads and not (self.causal and config.is_encoder_decoder):
            return []
        return [self.wrong_model(config)]

    def wrong_model(self, config: Any) -> Problem:
        """Return the problem of a model that is of another kind than the task needs."""
        kind = MODEL_KINDS.get(self.model_class, f"a model that transformers loads as {self.model_class}")
        what = f"the task {self.name} needs {kind}, and this is of the type {config.model_type}."
        return Problem("model", what, "Choose another model, or another task.")

    def problems(self, rows: Rows, options: OptionsT, metrics: Sequence[str]) -> list[Problem]:
        """Return what is wrong with rows that are readable, for example a label that only test rows have.

        Args:
            rows: the rows of each split.
            options: the task's options.
            metrics: names of the metrics that will be measured.
        """
        return []

    @abstractmethod
    def encode(self, given: EncodeInput[OptionsT]) -> Examples:
        """Return the rows as token ids.

        Raises:
            UserError: the tokenizer cannot encode the rows.
        """
