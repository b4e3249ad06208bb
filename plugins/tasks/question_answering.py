"""Question answering: a model marks the answer to a question in a text, the context, or says that there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapterzoo_plugins.tasks._contexts import ANSWERS, FromContext
from adapterzoo_plugins.tasks._windows import MAX_SHOWN, Question, QuestionAnsweringOptions, Reader, Window

from adapterzoo import Problem, Task, hookimpl
from adapterzoo.metrics.built_in.squad import SEPARATOR
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tasks.suited import unsuited_metrics
from adapterzoo.tokens.kept_examples import read_splits
from adapterzoo.tokens.sequences import check_offsets, pad_right

if TYPE_CHECKING:
    pass

ONE_REFERENCE = ("exact_match", "rouge", "bleu", "chrf")
"""metrics that compare an answer with one reference only"""


@dataclass(frozen=True)
class _Found:
    """The best answer in one window, with its scores."""

    loss: float
    """loss of the answer; 0 if it is not in this window"""
    score: float
    """score of the best answer"""
    answer: str
    no_answer: float
    """score of the first token, which stands for no answer"""


@dataclass(frozen=True, kw_only=True)
class Questions(Examples):
    """Questions with their contexts."""

    max_answer_length: int
    unanswerable: bool
    """whether some training questions have no answer; only then the model may say so"""
    loss_reads_padding: ClassVar[bool] = True  # as in transformers, where an answer may begin in the padding

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`; the two outputs for each token are how likely an answer begins and ends there."""
        return ModelForm(
            "AutoModelForQuestionAnswering", {"num_labels": 2}, new_head=True, vocabulary=len(self.tokenizer)
        )

    @property
    def loss_unit(self) -> Literal["rows"]:
        """See :attr:`Examples.loss_unit`."""
        return "rows"

    def collate(self, rows: Sequence[Question], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`; the positions of each answer are those of its first and its last token."""
        import torch

        windows = [row.learned for row in rows]
        places = {
            "start_positions": torch.tensor([window.target[0] for window in windows]),
            "end_positions": torch.tensor([window.target[1] for window in windows]),
        }
        return {**pad_right(windows, self.pad_id), **places}

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`.

        The answer to a question is the best over all its windows. The loss is that of the window with the answer.
        """
        from adapterzoo.evaluation.outputs import outputs

        examples: list[Question] = getattr(self, split)
        # Look for the answer only in windows that were chosen without regard to it.
        others = [[] if example.learned in example.windows else [example.learned] for example in examples]
        windows = [
            window for example, other in zip(examples, others, strict=True) for window in (*example.windows, *other)
        ]
        begun = time.perf_counter()
        found: Iterator[_Found] = iter(
            outputs(model, windows, lambda group: pad_right(group, self.pad_id), settings.batch_size, self._read)
        )
        seconds = (time.perf_counter() - begun) / len(examples)
        references = [example.row.completion for example in examples]
        answers, measured = [], []
        for example, other, reference in zip(examples, others, references, strict=True):
            looked = [next(found) for _ in example.windows]
            learned = next(found) if other else looked[example.windows.index(example.learned)]
            answers.append(self._answer(looked))
            right = int(answers[-1] in reference.split(SEPARATOR))
            measured.append(Likelihood(learned.loss, 1, (), right))
        rows = [example.row for example in examples]
        return evaluation_of(rows, measured, answers, settings.metrics, split, seconds)

    def _answer(self, found: Sequence[_Found]) -> str:
        """Return the answer to a question from what the model finds in its windows."""
        best = max(found, key=lambda window: window.score)
        # A question has no answer if every window says so, as in SQuAD. So compare with the lowest score for that.
        no_answer = self.unanswerable and min(window.no_answer for window in found) > best.score
        return "" if no_answer else best.answer

    def _read(self, output: Any, windows: Sequence[Window]) -> list[_Found]:
        """Return what the model finds in each window of a batch."""
        import torch

        found = []
        for first_logits, last_logits, window in zip(
            output.start_logits.float(), output.end_logits.float(), windows, strict=True
        ):
            # Leave padding out, because a measured loss must not depend on the other windows in the batch.
            first, last = first_logits[: window.size], last_logits[: window.size]
            loss = 0.0
            if window.target is not None:
                begin, end = window.target
                loss = -(first.log_softmax(0)[begin] + last.log_softmax(0)[end]).item() / 2
            context = slice(window.begin, window.begin + len(window.offsets))
            scores = first[context, None] + last[None, context]
            allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(self.max_answer_length - 1)
            best = int(scores.masked_fill(~allowed, float("-inf")).argmax())
            begin, end = divmod(best, len(window.offsets))
            text = window.row.turns[1].content[window.offsets[begin][0] : window.offsets[end][1]]
            found.append(_Found(loss, scores[begin, end].item(), " ".join(text.split()), (first[0] + last[0]).item()))
        return found


class QuestionAnswering(Task[QuestionAnsweringOptions]):
    """The task of finding the answer to a question in a context."""

    name = "question_answering"
    summary = "the answer to a question, as a part of a given context, or none"
    options = QuestionAnsweringOptions
    model_class = "AutoModelForQuestionAnswering"
    task_type = "QUESTION_ANS"
    formats = {  # noqa: RUF012  # the contract says that it is not changed
        "squad": FromContext(
            "a question, a context, and answers as in SQuAD", ("question", "context", ANSWERS), answer=ANSWERS
        ),
        "context_answer": FromContext(
            "a question, a context, and an answer from it", ("question", "context", "answer"), ("start",), "answer"
        ),
    }
    metrics = ("squad_em", "squad_f1", "loss")
    measured = ("loss",)
    new_head = True
    from_disk = True

    def problems(self, rows: Rows, options: QuestionAnsweringOptions, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        problems = unsuited_metrics(metrics, (*self.metrics, *ONE_REFERENCE), "answers from a context")
        if any(SEPARATOR in row.completion for row in rows.test):
            what = "compares with one reference, and some rows have several."
            hint = f"Choose from: {', '.join(self.metrics)}."
            problems += [
                Problem("evaluate.metrics", f"'{name}' {what}", hint) for name in metrics if name in ONE_REFERENCE
            ]
        if not any(row.completion for row in rows.train):
            what = "no training question has an answer: there is nothing to find."
            return [*problems, Problem("data", what, "Give rows with answers.")]
        if not all(row.completion for row in rows.train):
            return problems
        without = [row for row in rows.test if not row.completion]
        what = "its question has no answer, and every training question has one: no method can learn to say so."
        hint = "Give training rows without an answer too, or leave this one out."
        return problems + [Problem(row.place, what, hint) for row in without[:MAX_SHOWN]]

    def encode(self, given: EncodeInput[QuestionAnsweringOptions]) -> Questions:
        """See :meth:`Task.encode`."""
        from adapterzoo.model.padding import choose_padding_id

        tokenizer, rows = given.tokenizer, given.rows
        check_offsets(tokenizer)
        reader = Reader(tokenizer, given.data.max_length, given.options)
        splits = read_splits(given, reader.questions, [Question, Window])
        pad_id = choose_padding_id(tokenizer)
        without = sum(not row.completion for row in rows.train)
        common = f"up to {given.options.stride} tokens in common, and at most half of a window"
        facts = [f"the question, then the context; windows of a long context have {common}"]
        if without:
            first = tokenizer.convert_ids_to_tokens(splits["train"][0].learned.ids[0])
            facts.append(f"{without} of {len(rows.train)} training questions have no answer: they mark {first}")
        return Questions(
            tokenizer=tokenizer,
            **splits,
            pad_id=pad_id,
            fingerprint=rows.fingerprint,
            facts=(*facts, f"padding {tokenizer.convert_ids_to_tokens(pad_id)}"),
            max_answer_length=given.options.max_answer_length,
            unanswerable=bool(without),
        )


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [QuestionAnswering()]
