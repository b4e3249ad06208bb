"""Supervised answers: a causal language model learns what to answer to a question, or learns plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from adapterzoo_plugins.tasks._squad_metrics import line_problems

from adapterzoo import Options, Problem, Task, hookimpl
from adapterzoo.errors import UserError
from adapterzoo.formats import FORMATS
from adapterzoo.metrics.built_in import DEFAULT
from adapterzoo.results.identity import DEFAULT_TASK
from adapterzoo.tasks.contract import TASK_KEYS, DataSettings, EncodeInput, Rows
from adapterzoo.tasks.evaluation import Evaluation
from adapterzoo.tasks.examples import EvaluateSettings, sizes
from adapterzoo.tasks.labels import label_of, unknown_labels
from adapterzoo.tokens import cache
from adapterzoo.tokens.encode import Encoder
from adapterzoo.tokens.encoded import Encoded
from adapterzoo.tokens.stored_examples import StoredExamples

MAX_SHOWN_TOKENS = 2**24
"""largest number of tokens of all test prompts with examples in front, if rows are too many for the memory"""


@dataclass(frozen=True, kw_only=True)
class Answers(Encoded):
    """Questions and answers as token ids, or plain text."""

    shown: list[list[int]] = field(default_factory=list)
    """test prompts with training examples in front, as token ids; empty if the recipe shows no examples"""
    only_answers: bool = True
    """whether only the last answer of a row is in the loss"""

    @property
    def longest_shown(self) -> int:
        """See :attr:`Examples.longest_shown`."""
        return max((len(p) + len(e.completion) for p, e in zip(self.shown, self.test, strict=False)), default=0)

    def with_test(self, indices: Sequence[int]) -> Self:
        """See :meth:`Examples.with_test`."""
        shown = [self.shown[index] for index in indices] if self.shown else []
        return replace(super().with_test(indices), shown=shown)

    def training_only(self) -> Self:
        """See :meth:`Examples.training_only`."""
        return replace(super().training_only(), shown=[])

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`."""
        from adapterzoo.evaluation.evaluate import evaluate

        # If all tokens are learned, the examples in front of a prompt are in the loss too. Then do not measure it.
        comparable = not shots or self.only_answers
        prompts = self.shown if shots else None
        return evaluate(model, self, settings, prompts, split=split, with_likelihoods=comparable, prefix=prefix)


class Supervised(Task[Options]):
    """The task of a recipe that names none."""

    name = DEFAULT_TASK
    summary = "answers to questions, or plain text"
    options = Options
    model_class = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    formats = FORMATS
    metrics = (*DEFAULT, "loss", "perplexity")
    measured = ("loss", "perplexity", "token_accuracy")
    uses = TASK_KEYS
    causal = True

    def problems(self, rows: Rows, options: Options, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        label = label_of(metrics)
        problems: list[Problem] = line_problems(rows, metrics)
        return problems + (unknown_labels(rows, label, "evaluate.metrics") if label else [])

    def encode(self, given: EncodeInput[Options]) -> Answers:
        """See :meth:`Task.encode`."""
        tokenizer, rows = given.tokenizer, given.rows
        encoder = Encoder(tokenizer, given.data, given.say)
        encoded = cache.encode_splits(encoder, rows)
        shown = _shown(encoder, encoded, given.shots)
        values = {**vars(encoded), "facts": _facts(encoder, encoded, given.data)}
        return Answers(**values, shown=shown, only_answers=given.data.loss_on == "completion")


def _shown(encoder: Encoder, encoded: Encoded, shots: int) -> list[list[int]]:
    """Return the test prompts with training examples in front; none if there are no examples to show.

    Raises:
        UserError: they would take too much memory.
    """
    examples = encoded.train[:shots]
    tokens = int(sum(sizes(encoded.test))) + len(encoded.test) * sum(example.size for example in examples)
    if examples and isinstance(encoded.test, StoredExamples) and tokens > MAX_SHOWN_TOKENS:
        what = f"with {len(examples)} examples in front, the {len(encoded.test):,} test rows have {tokens:,} tokens, "
        what += f"and at most {MAX_SHOWN_TOKENS:,} are held in memory."
        raise UserError.at("evaluate.shots", what, "Set it to 0, or give fewer test rows with data.split.test.")
    rows = [example.row for example in examples]
    return [encoder.prompt(example.row, rows) for example in encoded.test] if examples else []


def _facts(encoder: Encoder, encoded: Encoded, data: DataSettings) -> list[str]:
    """Return lines that say how the rows are written, padded and packed."""
    how = "plain lines" if encoder.chat.plain else "the model's own chat template"
    how = data.chat_template if data.chat_template not in ("auto", "plain") else how
    raw = (encoded.train or encoded.test)[0].row.raw
    pad, end = encoder.tokenizer.convert_ids_to_tokens([encoder.pad_id, encoded.end_ids[-1]])
    packed = f"packing: {len(encoded.train):,} training rows are packed into {len(encoded.packs):,}"
    return [
        f"written with {'no chat template' if raw else how}; loss on {data.loss_on}",
        f"padding {pad}, never in the loss; an answer ends with {end}",
        *([packed] if encoded.packs else []),
    ]


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Supervised()]
