"""Say what a model learns from: the rows as token ids, the loss, and how the model is measured on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from adapterzoo.data_row import DataRow
from adapterzoo.tasks.evaluation import Evaluation

if TYPE_CHECKING:
    import torch


class EvaluateSettings(Protocol):
    """The settings of a recipe's ``evaluate`` section that a task may use; docs/recipe.md explains them."""

    metrics: list[str]
    batch_size: int
    max_new_tokens: Any
    shots: int


class Example(Protocol):
    """A row as token ids. If the model reads it as several sequences, ``longest`` is the length of the longest one."""

    @property
    def row(self) -> DataRow:
        """Return the row."""

    @property
    def size(self) -> int:
        """Return the number of tokens."""

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """Return all token ids, and for each whether it is in the loss; if none is, the row's answer is learned."""


def sizes(examples: Sequence[Example]) -> Sequence[int]:
    """Return the number of tokens of each example, without reading the examples if their tokens are on disk."""
    known: Sequence[int] | None = getattr(examples, "sizes", None)
    return [example.size for example in examples] if known is None else known


def longest_sequence(example: Any) -> int:
    """Return the number of tokens of an example's longest sequence: its ``longest``, or else its ``size``."""
    longest: int = getattr(example, "longest", example.size)
    return longest


def longest_of(examples: Sequence[Example]) -> int:
    """Return the number of tokens of the longest sequence of some examples."""
    known: Sequence[int] | None = getattr(examples, "longest", None)
    return int(max(map(longest_sequence, examples) if known is None else known))


class Joinable(NamedTuple):
    """Rows on which it is tried whether a model can read several of them in one sequence."""

    rows: Sequence[tuple[list[int], list[bool]]]
    """token ids of each row, and which of them are learned; the longest row of training and of the test first"""
    longest: int
    """largest number of tokens that a prompt and its answer can have together"""


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
    pooler: bool = True
    """whether the model keeps its pooler, the layer that BERT and others put behind the output for the first token"""


CAUSAL_FORM = ModelForm()
"""the form of a causal language model with its own tokenizer"""


@dataclass(frozen=True, kw_only=True)
class Examples(ABC):
    """The rows of all splits as token ids; all cells of a run share them."""

    tokenizer: Any
    train: Sequence[Any]
    """training examples, each an :class:`Example`"""
    validation: Sequence[Any]
    test: Sequence[Any]
    pad_id: int
    """id of the padding token"""
    fingerprint: str
    """hash of the content of all rows"""
    facts: Sequence[str] = ()
    """lines for ``adapterzoo preview`` that say how the rows are written"""

    trainer_computes_loss: ClassVar[bool] = False
    """whether the Trainer of transformers computes the training loss, and not :meth:`loss`: it weighs the tokens of all
    batches of a step alike, and smooths labels if the recipe says so"""

    loss_reads_padding: ClassVar[bool] = False
    """whether a row's loss depends on the padding beside it; processes that divide a batch then pad their rows as the
    whole batch is padded. All that :meth:`collate` returns then has to be tensors whose first dimension is the rows."""

    shown_answer: ClassVar[str] = "to learn"
    """what ``adapterzoo preview`` calls the answer of a row of which no token is in the loss"""

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
        return max(longest_of(split) for split in (self.train, self.validation, self.test) if split)

    @property
    def smallest_batch(self) -> int:
        """Smallest number of rows in a batch that teach the model anything; 2 if the loss compares rows."""
        return 1

    @property
    def loss_unit(self) -> Literal["tokens", "rows"] | None:
        """Over what the loss of a batch is a mean: its learned tokens or its rows; None if it is no such mean.

        Only with such a mean can several processes divide a batch, and each token or row of a step counts the same. A
        loss that compares rows with each other is none: then each batch of a step counts the same.
        """
        return None

    @property
    def longest_shown(self) -> int:
        """Number of tokens of the longest test row with training examples in front; 0 if none are shown."""
        return 0

    def joinable(self, settings: EvaluateSettings) -> Joinable | None:
        """Return rows on which it is tried whether the model can read several in one sequence; None to pad all rows.

        Args:
            settings: the largest number of tokens of an answer.
        """
        return None

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
                rows have to be padded. It is None for all tasks without :meth:`joinable` rows.
        """

    def sampled(self, batch: dict[str, Any], model: Any, seed: int, prefix: Any = None) -> dict[str, Any]:
        """Return a batch of :meth:`collate` with what the model adds to it before a step, like answers that it samples.

        Args:
            batch: the batch, perhaps on another device than the model.
            model: the model with its present weights; its mode is not changed.
            seed: decides what is drawn; it is the same for all methods.
            prefix: joins rows in one sequence; see :meth:`collate`.
        """
        return batch

    def arguments(self, batch: dict[str, Any], model: Any) -> dict[str, Any]:
        """Return the arguments to call the model with for a batch of :meth:`collate`, which is on its device."""
        return batch

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """Return the training loss for what :meth:`arguments` returned; by default, the model's own loss."""
        loss: torch.Tensor = model(**arguments).loss
        return loss

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
