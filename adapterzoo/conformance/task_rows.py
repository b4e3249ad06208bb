"""Four rows for each type of task, and the form of the model that it needs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo.tasks.evaluation import Evaluation
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tokens.encoded import Encoded

if TYPE_CHECKING:
    import torch

LABELS = 3
MODEL_CLASSES = {
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""type of task -> class of transformers that loads its model"""
WITH_NEW_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""types of tasks that put a new head on the base model"""


@dataclass(frozen=True)
class TaskRow:
    """A row of random tokens."""

    ids: list[int]
    answer: list[int]
    """random tokens to learn; which part of them is learned depends on the type of the task"""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class TaskRows(Examples):
    """Four rows to train and to measure on."""

    task_type: str

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`."""
        new_head = self.task_type in WITH_NEW_HEAD
        config = {"num_labels": LABELS} if self.task_type in ("SEQ_CLS", "TOKEN_CLS") else {}
        return ModelForm(MODEL_CLASSES[self.task_type], config, new_head=new_head)

    @property
    def loss_unit(self) -> Literal["tokens", "rows"]:
        """See :attr:`Examples.loss_unit`."""
        return "tokens" if self.task_type in ("SEQ_2_SEQ_LM", "TOKEN_CLS") else "rows"

    def collate(self, rows: Sequence[TaskRow], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`."""
        import torch

        width, size = max(row.size for row in rows), len(rows[0].answer)
        batch = {
            "input_ids": torch.tensor([row.ids + [self.pad_id] * (width - row.size) for row in rows]),
            "attention_mask": torch.tensor([[1] * row.size + [0] * (width - row.size) for row in rows]),
        }
        if self.task_type == "SEQ_2_SEQ_LM":
            batch["labels"] = torch.tensor([row.answer for row in rows])
        elif self.task_type == "SEQ_CLS":
            batch["labels"] = torch.tensor([row.answer[0] % LABELS for row in rows])
        elif self.task_type == "TOKEN_CLS":
            labels = [[token % LABELS for token in row.answer] + [-100] * (width - size) for row in rows]
            batch["labels"] = torch.tensor(labels)
        elif self.task_type == "QUESTION_ANS":
            batch["start_positions"] = torch.tensor([row.answer[0] % 4 for row in rows])
            batch["end_positions"] = torch.tensor([row.answer[1] % 4 for row in rows])
        return batch

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """See :meth:`Examples.loss`; a model without a head of its own learns features of random signs."""
        import torch

        if self.task_type != "FEATURE_EXTRACTION":
            return super().loss(model, arguments)
        output = model(**arguments)
        features = [output.last_hidden_state[:, 0]]
        if getattr(output, "pooler_output", None) is not None:
            features.append(output.pooler_output)
        signs = arguments["input_ids"][:, :1] % 2 * 2 - 1
        return torch.stack([((feature - signs) ** 2).mean() for feature in features]).sum()

    def outputs(self, model: Any, rows: Sequence[TaskRow]) -> torch.Tensor:
        """Return the outputs of a model for the tokens of rows that are no padding, in one dimension."""
        import torch

        batch = {name: value.to(next(model.parameters()).device) for name, value in self.collate(rows).items()}
        answers = batch.pop("labels", None)
        batch = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
        if self.task_type == "SEQ_2_SEQ_LM":
            # Some of PEFT's methods fail with labels after they were loaded.
            batch["decoder_input_ids"] = answers
        output = model(**batch)
        if self.task_type == "QUESTION_ANS":
            tensors = [output.start_logits, output.end_logits]
        else:
            tensors = [output.last_hidden_state if self.task_type == "FEATURE_EXTRACTION" else output.logits]
        by_token = self.task_type in ("TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
        parts = [
            tensor[index, : row.size if by_token else None].reshape(-1)
            for index, row in enumerate(rows)
            for tensor in tensors
        ]
        return torch.cat(parts).float()


class CausalRows(Encoded):
    """Four rows for causal language models, on which training also measures."""

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`."""
        from adapterzoo.evaluation.evaluate import evaluate

        return evaluate(model, self, settings, split=split, prefix=prefix)


def task_rows(task_type: str, vocabulary: int, count: int) -> TaskRows:
    """Return rows of different lengths for a type of task."""
    draw = random.Random(0)
    rows = []
    for index in range(count):
        ids, answer = ([draw.randrange(3, vocabulary) for _ in range(size)] for size in (6 + 3 * index, 5))
        rows.append(TaskRow(ids, answer))
    return TaskRows(tokenizer=None, train=rows, validation=[], test=rows, pad_id=0, fingerprint="", task_type=task_type)
