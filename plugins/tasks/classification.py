"""Classification: a model reads a text, or two, and gives one label, several labels, or a number."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins.tasks._labels import (
    MAX_SHOWN,
    SEPARATOR,
    Kind,
    Known,
    Labelled,
    is_fraction,
    known_labels,
    labels_of,
    number_problems,
)
from pydantic import Field

from adapterzoo import Options, Problem, Task, hookimpl
from adapterzoo.data_row import DataRow
from adapterzoo.metrics.built_in.classification import label
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tasks.labels import unknown_labels
from adapterzoo.tasks.suited import unsuited_metrics
from adapterzoo.tokens.kept_examples import read_splits
from adapterzoo.tokens.sequences import ReadText, pad_right, read_texts

if TYPE_CHECKING:
    pass

METRICS: dict[str, tuple[str, ...]] = {
    "one": ("accuracy", "macro_f1", "loss"),
    "several": ("label_f1", "exact_match", "loss"),
    "number": ("spearman", "loss"),
}
"""kind of labels -> metrics that are measured if the recipe names none"""
SUITED = {
    "one": ("accuracy", "macro_f1", "matthews", "exact_match", "loss"),
    "several": METRICS["several"],
    "number": METRICS["number"],
}
"""kind of labels -> those of the built-in metrics that say something about them"""


class ClassificationOptions(Options):
    """The options of the task."""

    labels: Literal["auto", "one", "several", "number"] = Field(
        "auto", description="what each row has; auto = several if the cells are lists, otherwise one label"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="with several labels: probability from which a label counts")


@dataclass(frozen=True, kw_only=True)
class LabelledTexts(Examples):
    """Texts with their labels."""

    kind: Kind
    names: tuple[str, ...]
    """names of the labels; empty if a number is learned"""
    threshold: float

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`."""
        kinds = {"one": "single_label_classification", "several": "multi_label_classification", "number": "regression"}
        config: dict[str, Any] = {
            "id2label": dict(enumerate(self.names or ("value",))),
            "label2id": {name: index for index, name in enumerate(self.names or ("value",))},
            "problem_type": kinds[self.kind],
            "pad_token_id": self.pad_id,
        }
        return ModelForm("AutoModelForSequenceClassification", config, new_head=True, vocabulary=len(self.tokenizer))

    @property
    def loss_unit(self) -> Literal["rows"]:
        """See :attr:`Examples.loss_unit`."""
        return "rows"

    def collate(self, rows: Sequence[ReadText], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`; ``labels`` has one entry for each text, or one for each text and label."""
        import torch

        dtype = torch.long if self.kind == "one" else torch.float
        return {**pad_right(rows, self.pad_id), "labels": torch.tensor([row.target for row in rows], dtype=dtype)}

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`."""
        from adapterzoo.evaluation.outputs import outputs

        examples: list[ReadText] = getattr(self, split)
        begun = time.perf_counter()
        read: list[tuple[float, str]] = outputs(
            model, examples, lambda group: pad_right(group, self.pad_id), settings.batch_size, self._read
        )
        seconds = (time.perf_counter() - begun) / len(examples)
        answers = [answer for _, answer in read]
        references = [example.row.completion for example in examples]
        measured = [
            Likelihood(loss, 1, (), int(answer == reference))
            for (loss, answer), reference in zip(read, references, strict=True)
        ]
        rows = [example.row for example in examples]
        return evaluation_of(rows, measured, answers, settings.metrics, split, seconds)

    def _read(self, output: Any, examples: Sequence[ReadText]) -> list[tuple[float, str]]:
        """Return the loss and the answer for each text of a batch."""
        import torch
        from torch.nn import functional

        logits = output.logits.float()
        dtype = torch.long if self.kind == "one" else torch.float
        targets = torch.tensor([example.target for example in examples], dtype=dtype, device=logits.device)
        if self.kind == "one":
            losses = functional.cross_entropy(logits, targets, reduction="none")
            answers = [self.names[index] for index in logits.argmax(dim=1).tolist()]
        elif self.kind == "several":
            losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
            chosen = (logits.sigmoid() >= self.threshold).tolist()
            answers = [SEPARATOR.join(n for n, yes in zip(self.names, row, strict=True) if yes) for row in chosen]
        else:
            values = logits[:, 0]
            losses = (values - targets) ** 2
            answers = [repr(value) for value in values.tolist()]
        return list(zip(losses.double().tolist(), answers, strict=True))


class Classification(Task[ClassificationOptions]):
    """The task of naming what a text is."""

    name = "classification"
    summary = "a label of a text or of two texts, several labels, or a number"
    options = ClassificationOptions
    model_class = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"
    formats = {  # noqa: RUF012  # the contract says that it is not changed
        "labelled": Labelled("a text and its label", ("text", "label"), answer="label"),
        "labelled_pair": Labelled("two texts and their label", ("text", "text_pair", "label"), answer="label"),
    }
    metrics = METRICS["one"]
    measured = ("loss",)
    new_head = True
    from_disk = True

    def default_metrics(self, rows: Rows, options: ClassificationOptions) -> Sequence[str]:
        """See :meth:`Task.default_metrics`."""
        return METRICS[kind_of_labels(rows, options)]

    def problems(self, rows: Rows, options: ClassificationOptions, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        kind = kind_of_labels(rows, options)
        problems = unsuited_metrics(metrics, SUITED[kind], _DESCRIBED[kind])
        if kind != "several" and options.threshold != ClassificationOptions.model_fields["threshold"].default:
            what = f"has no effect: it is for several labels of a row, and these rows have {_DESCRIBED[kind]}."
            problems.append(Problem("task.threshold", what, "Leave it out, or set task.labels."))
        if kind == "number":
            return [*problems, *number_problems(rows)]
        labels = known_labels(rows.train)
        if kind == "several" and not labels.several:
            what = "no row has a list of labels, and task.labels is several."
            problems.append(Problem("data", what, 'Write the labels of a row as a list: ["sport", "news"].'))
        if kind == "one":
            problems += unknown_labels(rows, str, "data", labels.single)
            if any(map(is_fraction, labels.single)):
                what = "labels are numbers with decimals: each would be a label of its own."
                problems.append(Problem("data", what, "To learn them as numbers, set task.labels to number."))
        known = sorted(labels.single if kind == "one" else labels.listed)
        if len(known) < 2:
            what = f"the training rows have {len(known)} different labels: there is nothing to tell apart."
            problems.append(Problem("data", what, "Give rows with at least two labels, or set task.labels to number."))
        same: dict[str, str] = {}
        for name in known:
            if (first := same.setdefault(label(name), name)) != name:
                what = f"'{first}' and '{name}' differ only in case, spaces or punctuation."
                problems.append(Problem("data", what, "Write one label the same way in all rows."))
        if kind == "several":
            new = {n: row for row in rows.test for n in labels_of(row, kind) if n not in known}
            problems += [Problem(row.place, f"its label '{name}' is in no training row.") for name, row in new.items()]
        return problems

    def encode(self, given: EncodeInput[ClassificationOptions]) -> LabelledTexts:
        """See :meth:`Task.encode`."""
        from adapterzoo.model.padding import choose_padding_id

        tokenizer, rows = given.tokenizer, given.rows
        kind = kind_of_labels(rows, given.options)
        labels = Known(False, frozenset(), frozenset()) if kind == "number" else known_labels(rows.train)
        names = sorted(labels.single if kind == "one" else labels.listed)
        places = {name: index for index, name in enumerate(names)}

        def target(row: DataRow) -> Any:
            if kind == "number":
                return float(row.completion)
            if kind == "one":
                # A validation label that no training row has would be an error only if it were in the test rows.
                return places.get(row.completion, -100)
            return [float(name in labels_of(row, kind)) for name in names]

        pad_id = choose_padding_id(tokenizer)
        read = partial(read_texts, tokenizer=tokenizer, target=target, max_length=given.data.max_length)
        splits = read_splits(given, read, [ReadText])
        # In place of a label, -100 means that no training row has it; as a number, it means itself.
        known = [example for example in splits["validation"] if kind != "one" or example.target != -100]
        if dropped := len(splits["validation"]) - len(known):
            given.say(f"data: {dropped} rows of validation dropped: no training row has their label")
        shown = f"{len(names)} labels: {', '.join(names[:MAX_SHOWN])}{', ...' if len(names) > MAX_SHOWN else ''}"
        return LabelledTexts(
            tokenizer=tokenizer,
            train=splits["train"],
            validation=known,
            test=splits["test"],
            pad_id=pad_id,
            fingerprint=rows.fingerprint,
            facts=(shown if names else "a number is learned", f"padding {tokenizer.convert_ids_to_tokens(pad_id)}"),
            kind=kind,
            names=tuple(names),
            threshold=given.options.threshold,
        )


_DESCRIBED = {"one": "one label for each row", "several": "several labels for each row", "number": "numbers"}


def kind_of_labels(rows: Rows, options: ClassificationOptions) -> Kind:
    """Return what each row has: one label, several, or a number."""
    if options.labels != "auto":
        return options.labels
    return "several" if known_labels(rows.train).several else "one"


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Classification()]
