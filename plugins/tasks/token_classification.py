"""Token classification: a model reads words and gives each a tag, such as the kind of name that it belongs to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins.tasks._tags import (
    MAX_SHOWN,
    PREFIXED,
    SPACE,
    Tagged,
    prefix_problems,
    scheme_of,
    tags_in,
    tags_of,
    train_tags,
)

from adapterzoo import Options, Problem, Task, UserError, hookimpl
from adapterzoo.data_row import DataRow
from adapterzoo.metrics.built_in.entities import OUTSIDE
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tasks.suited import unsuited_metrics
from adapterzoo.tokens.batches import IGNORED
from adapterzoo.tokens.kept_examples import read_splits
from adapterzoo.tokens.sequences import ReadText, check_offsets, pad_right

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class TaggedText(ReadText):
    """Words as token ids; ``target`` is a list with a label for each token, most of them ignored."""

    positions: tuple[int | None, ...]
    """for each word, the position of its first token; None if the word was cut off, or dropped by the tokenizer"""

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """All token ids, and for each whether it has a label."""
        return self.ids, [label != IGNORED for label in self.target]


@dataclass(frozen=True, kw_only=True)
class TaggedTexts(Examples):
    """Texts whose words have tags."""

    names: tuple[str, ...]
    """names of the tags"""

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`."""
        config = {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: index for index, name in enumerate(self.names)},
        }
        return ModelForm("AutoModelForTokenClassification", config, new_head=True, vocabulary=len(self.tokenizer))

    @property
    def loss_unit(self) -> Literal["tokens"]:
        """See :attr:`Examples.loss_unit`."""
        return "tokens"

    def collate(self, rows: Sequence[TaggedText], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`; ``labels`` has shape (texts, longest text)."""
        import torch

        batch = pad_right(rows, self.pad_id)
        width = batch["input_ids"].shape[1]
        labels = [[*row.target, *[IGNORED] * (width - row.size)] for row in rows]
        return {**batch, "labels": torch.tensor(labels)}

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`.

        A word that was cut off has the tag ``O``, is never right in ``token_accuracy``, and has the loss of a guess.
        """
        from adapterzoo.evaluation.outputs import outputs

        examples: list[TaggedText] = getattr(self, split)
        begun = time.perf_counter()
        read: list[tuple[Likelihood, str]] = outputs(
            model, examples, lambda group: pad_right(group, self.pad_id), settings.batch_size, self._read
        )
        seconds = (time.perf_counter() - begun) / len(examples)
        measured, answers = [likelihood for likelihood, _ in read], [answer for _, answer in read]
        rows = [example.row for example in examples]
        return evaluation_of(rows, measured, answers, settings.metrics, split, seconds)

    def _read(self, output: Any, examples: Sequence[TaggedText]) -> list[tuple[Likelihood, str]]:
        """Return the likelihood of the tags, and the tags that the model gives, for each text of a batch."""
        import torch
        from torch.nn import functional

        found = []
        for logits, example in zip(output.logits.float(), examples, strict=True):
            positions = [position for position in example.positions if position is not None]
            targets = torch.tensor([example.target[position] for position in positions], device=logits.device)
            of_words = logits[positions]
            loss = functional.cross_entropy(of_words, targets.long(), reduction="sum").item() if positions else 0.0
            likeliest = of_words.argmax(dim=1)
            given = iter(likeliest.tolist())
            tags = [OUTSIDE if position is None else self.names[next(given)] for position in example.positions]
            words = len(example.positions)
            loss += (words - len(positions)) * math.log(len(self.names))
            right = int((likeliest == targets).sum())
            found.append((Likelihood(loss, words, (), right), SPACE.join(tags)))
        return found


class TokenClassification(Task[Options]):
    """The task of giving each word of a text a tag."""

    name = "token_classification"
    summary = "a tag for each word of a text: named entities in IOB2 or IOB1, or tags without prefixes"
    options = Options
    model_class = "AutoModelForTokenClassification"
    task_type = "TOKEN_CLS"
    formats = {  # noqa: RUF012  # the contract says that it is not changed
        "tagged": Tagged("words and their tags", ("words", "tags"), answer="tags"),
    }
    metrics = ("entity_f1", "token_accuracy", "loss")
    measured = ("loss", "token_accuracy")
    new_head = True
    from_disk = True

    def default_metrics(self, rows: Rows, options: Options) -> Sequence[str]:
        """See :meth:`Task.default_metrics`: tags without prefixes are no entities."""
        return self.metrics if any(map(PREFIXED.fullmatch, train_tags(rows.train).names)) else self.metrics[1:]

    def problems(self, rows: Rows, options: Options, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        problems = unsuited_metrics(metrics, (*self.metrics, "exact_match"), "tags of words")
        known = train_tags(rows.train).names
        if len(known) < 2:
            what = f"the training rows have {len(known)} different tags: there is nothing to tell apart."
            problems.append(Problem("data", what, "Give rows with at least two tags."))
        new = {name: row for row in rows.test for name in tags_of(row) if name not in known}
        problems += [
            Problem(row.place, f"its tag '{name}' is in no training row.", "Correct it, or give more training rows.")
            for name, row in list(new.items())[:MAX_SHOWN]
        ]
        if "entity_f1" in metrics and tags_in(rows.test).names <= {OUTSIDE}:
            what = f"no test row has an entity, only {OUTSIDE}: entity_f1 would be 0 for every method."
            problems.append(Problem("data", what, "Give other test rows, or measure token_accuracy."))
        return [*problems, *prefix_problems(rows)]

    def encode(self, given: EncodeInput[Options]) -> TaggedTexts:
        """See :meth:`Task.encode`."""
        from adapterzoo.model.padding import choose_padding_id

        tokenizer, rows = given.tokenizer, given.rows
        check_offsets(tokenizer)
        labels = {name: index for index, name in enumerate(sorted(train_tags(rows.train).names))}
        read = partial(_read_words, tokenizer=tokenizer, labels=labels, max_length=given.data.max_length)
        splits = read_splits(given, read, [TaggedText])
        pad_id = choose_padding_id(tokenizer)
        scheme = scheme_of(rows)
        shown = f"{len(labels)} tags ({scheme}): {', '.join([*labels][:MAX_SHOWN])}"
        return TaggedTexts(
            tokenizer=tokenizer,
            **splits,
            pad_id=pad_id,
            fingerprint=rows.fingerprint,
            facts=(
                shown + (", ..." if len(labels) > MAX_SHOWN else ""),
                "the first token of each word is in the loss",
                f"padding {tokenizer.convert_ids_to_tokens(pad_id)}",
            ),
            names=tuple(labels),
        )


def _read_words(
    split: str,
    rows: Sequence[DataRow],
    say: Callable[[str], None],
    *,
    tokenizer: Any,
    labels: Mapping[str, int],
    max_length: int,
) -> Iterator[tuple[int, TaggedText]]:
    """Yield the number of each row and its words as token ids, cut to a length; rows with unknown tags are left out.

    The words are tokenized as one text, because a tokenizer of bytes writes a word otherwise if a space is in front.

    Args:
        split: name of the split; training rows without any label are left out.
        rows: the rows of a split.
        say: is called with a message on the rows that were cut.
        tokenizer: the model's tokenizer.
        labels: name of a tag -> its label.
        max_length: largest number of tokens.

    Raises:
        UserError: no training row has a label.
    """
    kept, dropped, cut, words = 0, 0, 0, 0
    for number, row in enumerate(rows):
        if not labels.keys() >= set(tags_of(row)):
            dropped += 1
            continue
        encoded = tokenizer(row.prompt, truncation=True, max_length=max_length, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        positions = _first_tokens(row.prompt.split(SPACE), encoded["offset_mapping"])
        target = [IGNORED] * len(ids)
        for position, tag in zip(positions, tags_of(row), strict=True):
            if position is not None:
                target[position] = labels[tag]
        missing = positions.count(None)
        cut, words = cut + bool(missing), words + missing
        if split != "train" or missing < len(positions):
            kept += 1
            yield number, TaggedText(row, ids, list(encoded.get("token_type_ids") or []), target, positions)
    if dropped:
        say(f"data: {dropped} rows of {split} dropped: no training row has one of their tags")
    if cut:
        means = "not learned" if split == "train" else f"tagged {OUTSIDE} and count as wrong"
        of = len(rows) - dropped
        what = f"data: {cut} of {of} rows of {split} have words that max_length = {max_length} tokens cuts off"
        say(f"{what}, or that the tokenizer drops: {words} words are {means}")
    if not kept and len(rows) > dropped:
        what = f"max_length = {max_length} leaves nothing to learn in all {len(rows) - dropped} rows of {split}."
        raise UserError.at("data.max_length", what, "Raise it.")


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> tuple[int | None, ...]:
    """Return the position of each word's first token; None if the word has no token.

    Args:
        words: the words of a text, which had single spaces between them.
        offsets: for each token, the places in the text where it begins and ends.
    """
    positions: list[int | None] = [None] * len(words)
    word, begins, ends = 0, 0, len(words[0])
    for position, (begin, end) in enumerate(offsets):
        while begin >= ends and word + 1 < len(words):
            word, begins = word + 1, ends + len(SPACE)
            ends = begins + len(words[word])
        # A token that is only the space in front of a word, or a special token, does not stand for the word.
        if positions[word] is None and min(end, ends) > max(begin, begins):
            positions[word] = position
    return tuple(positions)


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [TokenClassification()]
