"""Answers by an encoder-decoder model: the encoder reads the whole question, and the decoder writes the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins.tasks._squad_metrics import line_problems

from adapterzoo import Options, Problem, Task, UserError, hookimpl
from adapterzoo.data_row import DataRow, Places
from adapterzoo.formats import FORMATS
from adapterzoo.machine import ranks
from adapterzoo.metrics.built_in import DEFAULT
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of, needs_answers
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tasks.labels import label_of, unknown_labels
from adapterzoo.tokens.batches import IGNORED, batches_by_length, without_labels
from adapterzoo.tokens.kept_examples import read_splits

if TYPE_CHECKING:
    import torch

NEEDED_IDS = ("decoder_start_token_id", "pad_token_id")
"""settings of a model's configuration without which its decoder cannot begin"""
MAX_SHOWN = 5  # further rows with the same problem are only counted


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer as token ids."""

    row: DataRow
    question: list[int]
    """ids that the encoder reads"""
    answer: list[int]
    """ids that the decoder learns to write: the answer and the end token, unless the answer was cut"""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.question) + len(self.answer)

    @property
    def longest(self) -> int:
        """Number of tokens of the longer of them: they are two sequences."""
        return max(len(self.question), len(self.answer))

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """All token ids; those of the answer are in the loss."""
        return [*self.question, *self.answer], [False] * len(self.question) + [True] * len(self.answer)


@dataclass(frozen=True, kw_only=True)
class Pairs(Examples):
    """Questions and their answers, for an encoder and a decoder."""

    end_id: int
    """id of the token that ends an answer"""

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`."""
        return ModelForm(Seq2Seq.model_class, vocabulary=len(self.tokenizer))

    @property
    def loss_unit(self) -> Literal["tokens"]:
        """See :attr:`Examples.loss_unit`."""
        return "tokens"

    def collate(self, rows: Sequence[Pair], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`; the model itself makes the decoder's input from ``labels``."""
        return {
            "input_ids": _padded([pair.question for pair in rows], self.pad_id),
            "attention_mask": _padded([[1] * len(pair.question) for pair in rows], 0),
            "labels": _padded([pair.answer for pair in rows], IGNORED),
        }

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`."""
        from adapterzoo.evaluation.outputs import outputs

        examples: list[Pair] = getattr(self, split)
        lengths = [len(pair.answer) for pair in examples]
        measured: list[Likelihood] = outputs(
            model, examples, partial(self._read_batch, model), settings.batch_size, _likelihoods, lengths
        )
        answers: Sequence[str | None] = [None] * len(examples)
        seconds = None
        if needs_answers(settings.metrics):
            limit = max(lengths) if settings.max_new_tokens == "auto" else settings.max_new_tokens
            begun = time.perf_counter()
            answers = self._answers(model, examples, settings.batch_size, limit)
            seconds = (time.perf_counter() - begun) / len(examples)
        rows = [pair.row for pair in examples]
        return evaluation_of(rows, measured, answers, settings.metrics, split, seconds)

    def _read_batch(self, model: Any, rows: Sequence[Pair]) -> dict[str, Any]:
        """Return a batch without labels, because the model's own loss may include a method's regulariser."""
        import torch

        batch = self.collate(rows)
        labels = batch.pop("labels")
        if hasattr(model, "prepare_decoder_input_ids_from_labels"):
            inputs = model.prepare_decoder_input_ids_from_labels(labels)
        else:  # some models, like M2M100, do the same only inside their forward
            start = torch.full((len(rows), 1), model.config.decoder_start_token_id)
            inputs = torch.cat([start, labels[:, :-1]], dim=1)
            inputs = inputs.masked_fill(inputs == IGNORED, self.pad_id)
        return {**batch, "decoder_input_ids": inputs}

    def _answers(self, model: Any, examples: Sequence[Pair], batch_size: int, limit: int) -> list[str]:
        """Return the greedy answer to each question, of at most ``limit`` tokens."""
        from adapterzoo.evaluation.generation import generated

        answers: dict[int, str] = {}
        start = model.config.decoder_start_token_id
        model.eval()
        for indices in ranks.own_share(batches_by_length([len(pair.question) for pair in examples], batch_size)):
            batch = without_labels(self.collate([examples[index] for index in indices]))
            rows = generated(model, batch, limit, [self.end_id], self.pad_id, decoder_start_token_id=start)
            for index, ids in zip(indices, rows, strict=True):
                answers[index] = self._text(ids[1:])
        answers = ranks.merged(answers)
        return [answers[index] for index in range(len(examples))]

    def _text(self, ids: Sequence[int]) -> str:
        """Return the text of an answer, up to the end token."""
        end = ids.index(self.end_id) if self.end_id in ids else len(ids)
        # A tokenizer may be set to leave out spaces before signs, and then no answer could be as the data has it.
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Return rows as one tensor of shape (rows, longest row), padded on the right."""
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def _likelihoods(output: Any, pairs: Sequence[Pair]) -> list[Likelihood]:
    """Return the likelihood of each answer of a batch."""
    import torch
    from torch.nn import functional

    found = []
    for logits, pair in zip(output.logits, pairs, strict=True):
        own = logits[: len(pair.answer)].float()
        losses = functional.cross_entropy(own, torch.tensor(pair.answer, device=own.device), reduction="none")
        likeliest = tuple(own.argmax(dim=1).tolist())
        right = sum(best == token for best, token in zip(likeliest, pair.answer, strict=True))
        found.append(Likelihood(losses.double().sum().item(), len(pair.answer), likeliest, right))
    return found


class Seq2Seq(Task[Options]):
    """The task of answering with an encoder-decoder model, for example a translation or a summary."""

    name = "seq2seq"
    summary = "answers to questions, by a model with an encoder and a decoder"
    options = Options
    model_class = "AutoModelForSeq2SeqLM"
    task_type = "SEQ_2_SEQ_LM"
    formats = {name: form for name, form in FORMATS.items() if form.answer}  # noqa: RUF012  # it is not changed
    metrics = (*DEFAULT, "loss", "perplexity")
    measured = ("loss", "perplexity", "token_accuracy")
    uses = ("template",)
    from_disk = True

    def model_problems(self, config: Any) -> list[Problem]:
        """See :meth:`Task.model_problems`."""
        if problems := super().model_problems(config):
            return problems
        # transformers loads some models for speech by the same class.
        if not config.is_encoder_decoder:
            return [self.wrong_model(config)]
        hint = "Add it to its config.json, or choose another model."
        return [
            Problem("model", f"its configuration has no {name}, so its decoder cannot begin.", hint)
            for name in NEEDED_IDS
            if getattr(config, name, None) is None
        ]

    def problems(self, rows: Rows, options: Options, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        problems, empty = list[Problem](), 0
        for row in chain(rows.train, rows.validation, rows.test):
            if not row.prompt.strip():
                empty += 1
                if empty <= MAX_SHOWN:
                    problems.append(Problem(row.place, "its question is empty, so the encoder would read nothing."))
        if empty:
            what = f"{empty} rows have no question."
            hint = "Only data.template can leave it out: write a column before the answer that is not empty."
            problems.append(Problem("data.template", what, hint))
        problems += line_problems(rows, metrics)
        label = label_of(metrics)
        return problems + (unknown_labels(rows, label, "evaluate.metrics") if label else [])

    def encode(self, given: EncodeInput[Options]) -> Pairs:
        """See :meth:`Task.encode`."""
        from adapterzoo.model.padding import choose_padding_id

        tokenizer = given.tokenizer
        if tokenizer.eos_token_id is None:
            raise UserError.at("model", "its tokenizer has no end token: no answer would end.", "Choose another model.")
        pad_id = choose_padding_id(tokenizer)
        pad, end = tokenizer.convert_ids_to_tokens([pad_id, tokenizer.eos_token_id])
        read = partial(_read, tokenizer=tokenizer, max_length=given.data.max_length)
        return Pairs(
            tokenizer=tokenizer,
            **read_splits(given, read, [Pair]),
            pad_id=pad_id,
            fingerprint=given.rows.fingerprint,
            facts=(
                "the encoder reads the question; loss on the answer, which the decoder writes",
                f"padding {pad}, never in the loss; an answer ends with {end}",
            ),
            end_id=tokenizer.eos_token_id,
        )


def _read(
    split: str, rows: Sequence[DataRow], say: Callable[[str], None], *, tokenizer: Any, max_length: int
) -> Iterator[tuple[int, Pair]]:
    """Yield the number of each row, and its question and answer as token ids, each cut to ``max_length`` tokens.

    Args:
        split: name of the split, for messages.
        rows: the rows of the split.
        say: is called with messages on rows that were cut, or that the model cannot read or write as they are.
        tokenizer: the model's tokenizer.
        max_length: largest number of tokens of a question, and of an answer.
    """
    cut_questions, cut_answers, unwritable, special = (Places() for _ in range(4))
    for number, row in enumerate(rows):
        question = list(tokenizer(row.prompt, verbose=False)["input_ids"])
        if len(question) > max_length:
            question = list(tokenizer(row.prompt, truncation=True, max_length=max_length)["input_ids"])
            cut_questions.add(row.place)
        answer = list(tokenizer(text_target=row.completion, verbose=False)["input_ids"])
        if tokenizer.eos_token_id not in answer:
            answer.append(tokenizer.eos_token_id)
        if len(answer) > max_length:
            answer = answer[:max_length]
            cut_answers.add(row.place)
        if tokenizer.unk_token_id in answer:
            unwritable.add(row.place)
        if any(token in text for token in tokenizer.all_special_tokens for text in (row.prompt, row.completion)):
            special.add(row.place)
        yield number, Pair(row, question, answer)
    limit = f"max_length = {max_length}"
    notes = (
        ("questions", cut_questions, f"are cut to fit {limit}"),
        ("answers", cut_answers, f"are cut short by {limit}, and have no end token"),
        ("answers", unwritable, "have characters that the tokenizer does not know, so the model cannot write them"),
        ("rows", special, "contain the text of a special token, which the model will read as that token"),
    )
    for kind, found, what in notes:
        if found.count:
            where = f" (first: {found.first})" if found.first else ""
            say(f"data: {found.count} of {len(rows)} {kind} of {split} {what}{where}")


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Seq2Seq()]
