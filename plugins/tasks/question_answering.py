"""Question answering: a model marks the answer to a question in a text, the context, or says that there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from adapterzoo import Options, Problem, Task, UserError, hookimpl
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.formats import Format
from adapterzoo.formats.cell_text import kind_of, text_of
from adapterzoo.metrics.built_in.squad import SEPARATOR
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tokens.sequences import ReadText, check_offsets, pad_right

if TYPE_CHECKING:
    pass

ANSWERS = "answers"  # key of a row's answers in DataRow.more: pairs of a text and its start in the context
UNSUITED = ("accuracy", "macro_f1", "matthews", "label_f1", "spearman", "entity_f1")
"""metrics that say nothing about answers from a context, because they compare something else"""
ONE_REFERENCE = ("exact_match", "rouge", "bleu", "chrf")
"""metrics that compare an answer with one reference only"""
MAX_SHOWN = 5  # further rows with the same problem are only counted
MAX_QUOTED = 60  # number of letters of an answer that a message shows
EXAMPLE = 'Like {"text": ["in 1889"], "answer_start": [17]}; both lists are empty if there is no answer.'
LETTERS = "An answer must be a part of its context, letter by letter."


class QuestionAnsweringOptions(Options):
    """The options of the task."""

    stride: int = Field(
        128,
        ge=0,
        description="tokens that neighbouring windows have in common, at most half of a window",
    )
    max_answer_length: int = Field(30, ge=1, description="largest number of tokens of the model's answers")


@dataclass(frozen=True)
class FromContext(Format):
    """A format of a question, a context and answers, which are parts of the context."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the question and the context, and all right answers as one text; it is empty if there is none."""
        question, context = self.text(cells, "question"), self._context(cells)
        answers = dict.fromkeys(" ".join(text.split()) for text, _ in self._found(cells))
        return [Turn("user", question), Turn("user", context), Turn("assistant", SEPARATOR.join(answers))]

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Return the answers of a row, each with its start in the context."""
        return {ANSWERS: tuple(self._found(cells))}

    def _context(self, cells: Mapping[str, Any]) -> str:
        """Return the context with the white space around it, because the starts of answers count it."""
        context = text_of(cells.get("context"), "context")
        if not context.strip():
            raise EmptyRowError("context")
        return context

    def _found(self, cells: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        """Yield the text and the start of each answer.

        Raises:
            BadRowError: an answer is not in the context at its start.
        """
        context = self._context(cells)
        given = _listed(cells.get(ANSWERS)) if ANSWERS in self.columns else _single(cells)
        for value, start in given:
            text = text_of(value, self.columns[-1])
            if not text.strip():
                raise BadRowError("one of its answers is empty.", "A question without an answer has no answers at all.")
            place = _start(context, text, start)
            yield text.strip(), place + len(text) - len(text.lstrip())


def _single(cells: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return the only answer of a row and its start, which may be None; an empty cell is a question without answer."""
    answer = text_of(cells.get("answer"), "answer")
    return [(answer, cells.get("start"))] if answer.strip() else []


def _listed(answers: Any) -> list[tuple[Any, Any]]:
    """Return the answers of a cell, each with its start, which may be None.

    Raises:
        BadRowError: the cell is not written as SQuAD does it.
    """
    if kind_of(answers) is None:
        return []
    if isinstance(answers, list | tuple) and all(isinstance(one, Mapping) and "text" in one for one in answers):
        return [(one["text"], one.get("answer_start")) for one in answers]
    if not isinstance(answers, Mapping) or not isinstance(answers.get("text"), list | tuple):
        raise BadRowError(f"its answers are {kind_of(answers)}, without a list under 'text'.", EXAMPLE)
    texts, starts = answers["text"], answers.get("answer_start")
    if starts is None:
        return [(text, None) for text in texts]
    if not isinstance(starts, list | tuple) or len(starts) != len(texts):
        raise BadRowError(f"it has {len(texts)} answers, and not as many starts under 'answer_start'.", EXAMPLE)
    return list(zip(texts, starts, strict=True))


def _start(context: str, text: str, start: Any) -> int:
    """Return where an answer starts in its context: the given start, or else the first place where it occurs.

    Raises:
        BadRowError: the answer is not there.
    """
    first, shown = context.find(text), text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
    if (given := text_of(start, "start").strip()) == "":
        if first < 0:
            raise BadRowError(f"its answer '{shown}' is not in its context.", LETTERS)
        return first
    try:
        place = int(float(given))
    except (ValueError, OverflowError):
        hint = "Give the number of letters in front of the answer, or no start."
        raise BadRowError(f"the start of its answer, '{given}', is not a number.", hint) from None
    if place < 0 or not context.startswith(text, place):
        hint = LETTERS if first < 0 else f"It is at {first}: correct the start, or give none."
        raise BadRowError(f"its answer '{shown}' is not in its context at {place}.", hint)
    return place


@dataclass(frozen=True, slots=True)
class Window(ReadText):
    """A question and a part of its context as token ids; ``target`` is the first and the last token of the answer.

    If the answer is not in this part, ``target`` is None. If the question has no answer, both are the first token.
    """

    begin: int
    """position of the first token of the context"""
    offsets: list[tuple[int, int]]
    """for each token of the context in this window, the places in the context where it begins and ends"""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its context as token ids."""

    row: DataRow
    learned: Window
    """the window with the answer"""
    windows: list[Window]
    """all windows in which the answer is looked for; empty for training rows, which are not measured"""

    @property
    def size(self) -> int:
        """Number of tokens of the longest window."""
        return max(window.size for window in (self.learned, *self.windows))

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """All token ids of the window with the answer, and for each whether it belongs to the answer."""
        first, last = self.learned.target
        return self.learned.ids, [first <= position <= last for position in range(self.learned.size)]


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

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`; the two outputs for each token are how likely an answer begins and ends there."""
        return ModelForm(
            "AutoModelForQuestionAnswering", {"num_labels": 2}, new_head=True, vocabulary=len(self.tokenizer)
        )

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

    def problems(self, rows: Rows, options: QuestionAnsweringOptions, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        suited = f"Choose from: {', '.join(self.metrics)}."
        reasons = dict.fromkeys(UNSUITED, "says nothing about answers from a context")
        if any(SEPARATOR in row.completion for row in rows.test):
            reasons |= dict.fromkeys(ONE_REFERENCE, "compares with one reference, and some rows have several")
        problems = [
            Problem("evaluate.metrics", f"'{name}' {reasons[name]}.", suited) for name in metrics if name in reasons
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
        reader = _Reader(tokenizer, given.data.max_length, given.options, given.say)
        splits = {split: reader.questions(getattr(rows, split), split) for split in ("train", "validation", "test")}
        if reader.problems:
            raise UserError(*reader.problems[:MAX_SHOWN])
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


@dataclass(frozen=True)
class _Whole:
    """A question and its whole context as token ids."""

    ids: list[int]
    segments: list[int]
    """for each token, whether it belongs to the question (0) or the context (1); empty if the model needs none"""
    begin: int
    """position of the first token of the context"""
    offsets: list[tuple[int, int]]
    """for each token of the context, the places in the context where it begins and ends"""

    def window(self, row: DataRow, begin: int, room: int, answer: tuple[int, int] | None) -> Window:
        """Return the question with a part of the context.

        Args:
            row: the row.
            begin: index of the first token of the part, among the tokens of the context.
            room: largest number of tokens of the part.
            answer: indices of the first and the last token of the answer; None if the question has no answer.
        """
        end = min(begin + room, len(self.offsets))
        kept = [
            *range(self.begin),
            *range(self.begin + begin, self.begin + end),
            *range(self.begin + len(self.offsets), len(self.ids)),
        ]
        target: tuple[int, int] | None = (0, 0)
        if answer is not None:
            inside = begin <= answer[0] and answer[1] < end
            target = (self.begin + answer[0] - begin, self.begin + answer[1] - begin) if inside else None
        ids, segments = ([values[place] for place in kept] if values else [] for values in (self.ids, self.segments))
        return Window(row, ids, segments, target, self.begin, self.offsets[begin:end])


class _Reader:
    """Turns rows into token ids for one model."""

    def __init__(
        self, tokenizer: Any, max_length: int, options: QuestionAnsweringOptions, say: Callable[[str], None]
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.options = options
        self.say = say
        self.problems: list[Problem] = []
        """rows whose answer cannot be marked"""
        texts = tokenizer("a", "b").sequence_ids(0)
        # The tokenizers of decoders often put nothing between two texts.
        self._separates = texts[texts.index(1) - 1] != 0

    def questions(self, rows: Sequence[DataRow], split: str) -> list[Question]:
        """Return the questions of a split, and tell the user which contexts and answers are long."""
        questions, long, unreachable = [], 0, 0
        for row in rows:
            windows, learned = self._windows(row)
            if learned is None:
                continue
            long += len(windows) > 1
            first, last = learned.target
            unreachable += last - first >= self.options.max_answer_length
            questions.append(Question(row, learned, [] if split == "train" else windows))
        of = f"of {len(rows)}"
        if long:
            how = "a window with the answer is learned" if split == "train" else "each is read in several windows"
            what = f"data: {long} {of} contexts of {split} do not fit into max_length = {self.max_length} tokens"
            self.say(f"{what}: {how}")
        if unreachable:
            limit = f"max_answer_length = {self.options.max_answer_length} tokens"
            self.say(f"data: {unreachable} {of} answers of {split} are longer than {limit}")
        return questions

    def _windows(self, row: DataRow) -> tuple[list[Window], Window | None]:
        """Return the windows of a row, and the one to learn; None if the answer cannot be marked in any."""
        whole = self._whole(row)
        room = self.max_length - (len(whole.ids) - len(whole.offsets))
        answer = self._answer_tokens(row, whole)
        size = 1 if answer is None else answer[1] - answer[0] + 1
        if room < size:
            what = f"its question leaves {max(room, 0)} of {self.max_length} tokens for the context"
            hint = "Raise data.max_length, or leave the row out."
            self.problems.append(Problem(row.place, f"{what}, and its answer has {size}.", hint))
        if room < size or size == 0 or not whole.offsets:
            return [], None
        step = room - min(self.options.stride, room // 2)
        last = max(len(whole.offsets) - room, 0)
        windows = [whole.window(row, begin, room, answer) for begin in range(0, last + step, step)]
        # Learn the window that shows most of the context on both sides of the answer.
        learned = max((window for window in windows if window.target), key=_margin, default=None)
        if learned is None and answer is not None:
            middle = answer[0] - (room - size) // 2
            learned = whole.window(row, max(0, min(middle, last)), room, answer)
        return windows, learned

    def _whole(self, row: DataRow) -> _Whole:
        """Return a question and its whole context as token ids."""
        question, context = (turn.content for turn in row.turns[:-1])
        settings = {"return_offsets_mapping": True, "verbose": False}
        if self._separates:
            both = self.tokenizer(question, context, **settings)
            texts = both.sequence_ids(0)
            begin = texts.index(1) if 1 in texts else len(texts)
            offsets = both["offset_mapping"][begin : begin + texts.count(1)]
            return _Whole(list(both["input_ids"]), list(both.get("token_type_ids") or []), begin, offsets)
        asked = list(self.tokenizer(f"{question}\n", verbose=False)["input_ids"])
        read = self.tokenizer(context, add_special_tokens=False, **settings)
        return _Whole([*asked, *read["input_ids"]], [], len(asked), read["offset_mapping"])

    def _answer_tokens(self, row: DataRow, whole: _Whole) -> tuple[int, int] | None:
        """Return the indices of an answer's first and last token, among those of its context; None without an answer.

        If the tokenizer drops all letters of the answer, a problem is noted, and the last index is below the first.
        """
        answers: Any = dict(row.more)[ANSWERS]
        if not answers:
            return None
        text, start = answers[0]
        inside = [
            index for index, (begin, end) in enumerate(whole.offsets) if min(end, start + len(text)) > max(begin, start)
        ]
        if not inside:
            what = f"the model's tokenizer drops its whole answer, '{text[:MAX_QUOTED]}'."
            self.problems.append(Problem(row.place, what, "Leave the row out, or choose another model."))
            return 0, -1
        return inside[0], inside[-1]


def _margin(window: Window) -> int:
    """Return how much of the context a window shows on the side of the answer where it shows less of it."""
    first, last = window.target
    margin: int = min(first - window.begin, window.begin + len(window.offsets) - 1 - last)
    return margin


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [QuestionAnswering()]
