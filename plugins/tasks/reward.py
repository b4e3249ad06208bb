"""Reward: a model reads an answer and gives it one number, which is higher for the answers that people choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins.tasks._preferences import PREFERENCE, RANKED, read_pairs, with_rejected

from adapterzoo import Options, Task, hookimpl
from adapterzoo.data_row import DataRow
from adapterzoo.tasks.contract import EncodeInput
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of_scores
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tokens.kept_examples import Reader, read_splits
from adapterzoo.tokens.sequences import ReadText, pad_right

if TYPE_CHECKING:
    import torch

    from adapterzoo.tokens.encode import Encoder

METRICS = ("reward_accuracy", "reward_margin", "loss")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chosen and a rejected text as token ids."""

    row: DataRow
    chosen: ReadText
    rejected: ReadText

    @property
    def size(self) -> int:
        """Number of tokens of both texts."""
        return self.chosen.size + self.rejected.size

    @property
    def longest(self) -> int:
        """Number of tokens of the longer text."""
        return max(self.chosen.size, self.rejected.size)

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """All token ids of the chosen text and then of the rejected one; none of them is in the loss."""
        return [*self.chosen.ids, *self.rejected.ids], [False] * self.size


@dataclass(frozen=True, kw_only=True)
class RankedTexts(Examples):
    """Pairs of a chosen and a rejected text."""

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`.

        The model's own loss is that of a classification with one label: it is exactly 0, and so is its gradient. What
        a method adds to the model's loss is therefore all that is in it.
        """
        config = {
            "id2label": {0: "reward"},
            "label2id": {"reward": 0},
            "problem_type": "single_label_classification",
            "pad_token_id": self.pad_id,
        }
        return ModelForm("AutoModelForSequenceClassification", config, new_head=True, vocabulary=len(self.tokenizer))

    @property
    def loss_unit(self) -> Literal["rows"]:
        """See :attr:`Examples.loss_unit`."""
        return "rows"

    def collate(self, rows: Sequence[Ranked], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`: first the chosen texts of all rows, then the rejected ones."""
        import torch

        texts = [*(row.chosen for row in rows), *(row.rejected for row in rows)]
        return {**pad_right(texts, self.pad_id), "labels": torch.zeros(len(texts), dtype=torch.long)}

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """See :meth:`Examples.loss`: the mean over the pairs of a batch (Bradley and Terry)."""
        output = model(**arguments)
        added: torch.Tensor = output.loss
        return added + _losses(*output.logits[:, 0].float().chunk(2)).mean()

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`; a pair is right if the chosen text has the higher reward, not the same."""
        import torch

        from adapterzoo.evaluation.outputs import outputs

        examples: list[Ranked] = getattr(self, split)
        texts = [*(example.chosen for example in examples), *(example.rejected for example in examples)]
        rewards = outputs(
            model,
            texts,
            lambda group: pad_right(group, self.pad_id),
            settings.batch_size,
            lambda output, group: output.logits[:, 0].double().tolist(),
        )
        chosen, rejected = torch.tensor(rewards).double().chunk(2)
        scores = {"reward_accuracy": (chosen > rejected).tolist(), "reward_margin": (chosen - rejected).tolist()}
        right = (chosen > rejected).tolist()
        likelihoods = [
            Likelihood(loss, 1, (), int(is_right))
            for loss, is_right in zip(_losses(chosen, rejected).tolist(), right, strict=True)
        ]
        rows = [example.row for example in examples]
        return evaluation_of_scores(rows, likelihoods, scores, settings.metrics, split)


def _losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Return the loss of each pair from the rewards of its texts."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(chosen - rejected)


class Reward(Task[Options]):
    """The task of scoring answers."""

    name = "reward"
    summary = "a number for an answer, higher for the better of two"
    options = Options
    model_class = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"
    formats = {"preference": PREFERENCE, "ranked": RANKED}  # noqa: RUF012  # the contract says that it is not changed
    metrics = METRICS
    measured = METRICS
    new_head = True
    compares_answers = False
    uses = ("system", "chat_template", "truncate")
    from_disk = True

    def encode(self, given: EncodeInput[Options]) -> RankedTexts:
        """See :meth:`Task.encode`."""
        from adapterzoo.model.padding import choose_padding_id

        tokenizer, fingerprint = given.tokenizer, given.rows.fingerprint
        read: Reader[Ranked]
        if tokenizer.eos_token_id is None:
            read = partial(_read_by_encoder, tokenizer=tokenizer, max_length=given.data.max_length)
            pad_id = choose_padding_id(tokenizer)
        else:
            from adapterzoo.tokens.encode import Encoder

            encoder = Encoder(tokenizer, given.data, given.say)
            read = partial(_read_by_decoder, encoder=encoder, fingerprint=f"{fingerprint}-ranked")
            tokenizer, pad_id = encoder.tokenizer, encoder.pad_id
        return RankedTexts(
            tokenizer=tokenizer,
            **read_splits(given, read, [Ranked, ReadText]),
            pad_id=pad_id,
            fingerprint=fingerprint,
            facts=(f"padding {tokenizer.convert_ids_to_tokens(pad_id)}",),
        )


def _read_by_decoder(
    split: str, rows: Sequence[DataRow], say: Callable[[str], None], *, encoder: Encoder, fingerprint: str
) -> Iterator[tuple[int, Ranked]]:
    """Yield the number of each row, and each answer after the prompt, up to an end token."""
    for number, *both in read_pairs(
        split, rows, say, encoder=encoder, fingerprint=fingerprint, change=_raw_without_prompt
    ):
        row = rows[number]
        yield number, Ranked(row, *(ReadText(row, example.tokens[0], [], None) for example in both))


def _raw_without_prompt(row: DataRow) -> DataRow:
    """Return a row whose text is read as it is if it has no prompt: then it is not part of a conversation."""
    return replace(row, raw=len(row.turns) == 1)


def _read_by_encoder(
    split: str, rows: Sequence[DataRow], say: Callable[[str], None], *, tokenizer: Any, max_length: int
) -> Iterator[tuple[int, Ranked]]:
    """Yield the number of each row and its texts for a model without an end token: prompt and answer are two texts."""

    def read(row: DataRow) -> ReadText:
        texts = [text for text in (row.prompt, row.completion) if text]
        encoded = tokenizer(*texts, truncation="longest_first", max_length=max_length)
        return ReadText(row, list(encoded["input_ids"]), list(encoded.get("token_type_ids") or []), None)

    same = 0
    for number, row in enumerate(rows):
        pair = Ranked(row, read(row), read(with_rejected(row)))
        if pair.chosen.ids == pair.rejected.ids:
            same += 1
        else:
            yield number, pair
    if same:
        say(f"data: {same} of {len(rows)} rows of {split} dropped: their texts are the same when they are cut")


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Reward()]
