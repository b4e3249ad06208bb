"""The task contract: which rows a task takes, which model it trains, what the loss is, and what is measured.

A task has two parts. :class:`Task` describes it. It is made without torch, so that recipes are checked without delay.
:class:`Examples` holds the rows as tokens, and knows how a model is trained and measured on them. A plugin gives its
tasks through a hook, like methods and metrics::

    from adapterzoo import hookimpl


    @hookimpl
    def adapterzoo_tasks():
        return [MyTask()]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self

from adapterzoo.data_row import DataRow
from adapterzoo.errors import Problem
from adapterzoo.formats import Format
from adapterzoo.methods.contract import OptionsT
from adapterzoo.tasks.evaluation import Evaluation

if TYPE_CHECKING:
    import torch


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


class EvaluateSettings(Protocol):
    """The settings of a recipe's ``evaluate`` section that a task may use; docs/recipe.md explains them."""

    metrics: list[str]
    batch_size: int
    max_new_tokens: Any
    shots: int


class Rows(Protocol):
    """The rows of each split."""

    @property
    def train(self) -> list[DataRow]:
        """Return the training rows."""

    @property
    def validation(self) -> list[DataRow]:
        """Return the validation rows."""

    @property
    def test(self) -> list[DataRow]:
        """Return the test rows."""

    @property
    def fingerprint(self) -> str:
        """Return a hash of the content of all rows."""


class Example(Protocol):
    """A row as token ids."""

    @property
    def row(self) -> DataRow:
        """Return the row."""

    @property
    def size(self) -> int:
        """Return the number of tokens."""

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """Return all token ids, and for each whether it is in the loss; if none is, the row's answer is learned."""


@dataclass(frozen=True)
class ModelForm:
    """The form in which a task needs the model."""

    model_class: str = "AutoModelForCausalLM"
    """name of the class of transformers that loads it"""
    config: Mapping[str, Any] = field(default_factory=dict)
    """setting of the model's configuration -> value, for example the number of labels"""
    new_head: bool = False
    """whether the task puts a new head on the base model, which every method then trains"""
    vocabulary: int = 0
    """number of embeddings that the tokenizer needs; the model gets more if it has fewer"""


CAUSAL_FORM = ModelForm()
"""the form of a causal language model with its own tokenizer"""


@dataclass(frozen=True, kw_only=True)
class Examples(ABC):
    """The rows of all splits as token ids; all cells of a run share them."""

    tokenizer: Any
    train: list[Any]
    """training examples, each an :class:`Example`"""
    validation: list[Any]
    test: list[Any]
    pad_id: int
    """id of the padding token"""
    fingerprint: str
    """hash of the content of all rows"""
    facts: Sequence[str] = ()
    """lines for ``adapterzoo preview`` that say how the rows are written"""

    @property
    def form(self) -> ModelForm:
        """The form in which the model is loaded."""
        return ModelForm(vocabulary=len(self.tokenizer))

    @property
    def training_rows(self) -> Sequence[Any]:
        """The rows of training batches: the training examples, if the task does not put several into one row."""
        return self.train

    @property
    def longest_row(self) -> int:
        """Largest number of tokens that the model reads in one sequence."""
        return max(int(example.size) for example in (*self.train, *self.validation, *self.test))

    @property
    def longest_shown(self) -> int:
        """Number of tokens of the longest test row with training examples in front; 0 if none are shown."""
        return 0

    def with_test(self, indices: Sequence[int]) -> Self:
        """Return the same examples with only these of the test split."""
        return replace(self, test=[self.test[index] for index in indices])

    @property
    def asks_base(self) -> bool:
        """Whether the loss or a metric depends on what the untouched base model says about the examples."""
        return False

    def ask_base(self, model: Any, settings: EvaluateSettings) -> Any:
        """Return what an untouched base model says about the examples, as plain data that can be pickled.

        It is asked once for each quantization, and all cells with this quantization share the answer.

        Args:
            model: the untouched base model; it is left in evaluation mode.
            settings: the batch size.
        """
        return None

    @property
    def relative_metrics(self) -> Sequence[str]:
        """Metrics that compare a model with the untouched base model, which therefore has none of them itself."""
        return ()

    def with_base(self, answer: Any) -> Self:
        """Return the examples with what the untouched base model says about them.

        Args:
            answer: what :meth:`ask_base` returned; None for a stand-in, if only the time of a training is estimated.
        """
        return self

    def check_model(self, model: Any) -> None:  # noqa: B027  # most tasks have nothing to check
        """Raise UserError if a model cannot be trained on these examples."""

    def training_only(self) -> Self:
        """Return the training examples without all others, for methods whose adapter starts from data."""
        return replace(self, tokenizer=None, validation=[], test=[])

    @abstractmethod
    def collate(self, rows: Sequence[Any], prefix: Any = None) -> dict[str, Any]:
        """Return a batch of training rows.

        Args:
            rows: some of ``training_rows``.
            prefix: joins rows in one sequence (:class:`~adapterzoo.tokens.shared_prefix.SharedPrefix`); None if the
                rows have to be padded. It is None for all tasks that are not ``causal``.
        """

    def arguments(self, batch: dict[str, Any], model: Any) -> dict[str, Any]:
        """Return the arguments to call the model with for a batch of :meth:`collate`, which is on its device."""
        return batch

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor | None:
        """Return the training loss for what :meth:`arguments` returned; None if it is the model's own loss."""
        return None

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """Measure a model.

        Args:
            model: the model; it is left in evaluation mode.
            settings: the metrics and the batch size. With ``loss`` as the only metric, the value of ``test_loss`` in
                the result is the loss on the split.
            split: name of the split to measure on; tuning measures on ``validation``.
            prefix: joins rows in one sequence; see :meth:`collate`.
            shots: whether to show training examples in front of the test prompts, as ``settings`` says.

        Raises:
            NotFiniteError: the loss is NaN or infinite, for example because the last training step broke the weights.
            PluginError: a third-party metric does not do what the contract says.
        """
        raise NotImplementedError


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
    :class:`~adapterzoo.tokens.encode.Encoded`. General text can then be measured, training examples can be shown in
    front of test prompts, and rows with the same beginning can be joined"""

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
    def encode(
        self,
        tokenizer: Any,
        rows: Rows,
        options: OptionsT,
        data: DataSettings,
        say: Callable[[str], None],
        *,
        shots: int = 0,
    ) -> Examples:
        """Return the rows as token ids.

        Args:
            tokenizer: the model's tokenizer.
            rows: the rows of each split.
            options: the task's options.
            data: settings of the recipe.
            say: is called with messages about rows that were cut or left out.
            shots: number of training examples to show in front of test prompts; 0 if the task is not ``causal``.

        Raises:
            UserError: the tokenizer cannot encode the rows.
        """
