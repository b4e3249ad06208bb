"""Preference: a causal language model learns which of two answers is better, or which answers are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from adapterzoo_plugins.tasks._judged import Judged, mean_lengths, read_judged, read_mismatched
from adapterzoo_plugins.tasks._judgements import Judgements
from adapterzoo_plugins.tasks._preference_losses import OWN_OPTIONS, Loss, PreferenceOptions
from adapterzoo_plugins.tasks._preferences import PREFERENCE, RANKED, UNPAIRED, WANTED

from adapterzoo import Problem, Task, hookimpl
from adapterzoo.data_row import DataRow, Places
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tokens.kept_examples import read_splits

METRICS = ("likelihood_accuracy", "reward_accuracy", "reward_margin", "loss")


class Preferences(Task[PreferenceOptions]):
    """The task of learning from preferences."""

    name = "preference"
    summary = "which of two answers is better, or which answers are wanted"
    options = PreferenceOptions
    model_class = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    formats = {"preference": PREFERENCE, "ranked": RANKED, "unpaired": UNPAIRED}  # noqa: RUF012  # it is not changed
    metrics = METRICS
    measured = METRICS
    compares_answers = False
    uses = ("system", "chat_template", "truncate")
    from_disk = True

    def default_metrics(self, rows: Rows, options: PreferenceOptions) -> Sequence[str]:
        """See :meth:`Task.default_metrics`."""
        return METRICS[1:] if _unpaired(rows) else METRICS

    def model_problems(self, config: Any) -> list[Problem]:
        """See :meth:`Task.model_problems`."""
        return super().model_problems(config) or ([self.wrong_model(config)] if config.is_encoder_decoder else [])

    def problems(self, rows: Rows, options: PreferenceOptions, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        unpaired, loss, problems = _unpaired(rows), loss_of(rows, options), list[Problem]()
        if unpaired and loss != "kto":
            what = f"{loss} compares a chosen answer with a rejected one, and these rows have single answers."
            problems.append(Problem("task.loss", what, "Set it to kto, or give rows of prompt, chosen and rejected."))
        for option, only in OWN_OPTIONS.items():
            if only != loss and getattr(options, option) != PreferenceOptions.model_fields[option].default:
                what = f"has no effect: only {only} uses it, and the loss is {loss}."
                problems.append(Problem(f"task.{option}", what, "Leave it out, or set task.loss."))
        if unpaired and "likelihood_accuracy" in metrics:
            what = "'likelihood_accuracy' compares two answers, and these rows have one."
            problems.append(Problem("evaluate.metrics", what, f"Choose from: {', '.join(METRICS[1:])}."))
        if unpaired and len(labels := {_wanted(row) for row in rows.train}) < 2:
            what = f"the label of all training rows is {str(labels.pop()).lower()}: there is nothing to tell apart."
            problems.append(Problem("data", what, "Give rows with both labels."))
        alone = Places()
        for row in chain(rows.train, rows.validation, rows.test):
            if len(row.turns) == 1:
                alone.add(row.place)
        if alone.count:
            what = f"it has no prompt, as {alone.count} rows."
            hint = "Give a column 'prompt', or conversations of role and content."
            problems.append(Problem(alone.first, what, hint))
        return problems

    def encode(self, given: EncodeInput[PreferenceOptions]) -> Judgements:
        """See :meth:`Task.encode`."""
        from adapterzoo.tokens.encode import Encoder

        tokenizer, rows = given.tokenizer, given.rows
        encoder, loss = Encoder(tokenizer, given.data, given.say), loss_of(rows, given.options)
        read = partial(read_judged, encoder=encoder, fingerprint=rows.fingerprint, unpaired=_unpaired(rows))
        if loss == "kto":
            read = partial(read_mismatched, max_length=given.data.max_length, **read.keywords)
        splits = read_splits(given, read, [Judged])
        counts = " and ".join(f"{number} tokens" for number in mean_lengths(splits["train"]))
        pad = tokenizer.convert_ids_to_tokens(encoder.pad_id)
        return Judgements(
            tokenizer=encoder.tokenizer,
            **splits,
            pad_id=encoder.pad_id,
            fingerprint=rows.fingerprint,
            facts=(f"loss {loss}; answers have {counts} on average", f"padding {pad}, never in the loss"),
            loss_name=loss,
            options=given.options,
        )


def loss_of(rows: Rows, options: PreferenceOptions) -> Loss:
    """Return the loss that is minimised."""
    if options.loss != "auto":
        return options.loss
    return "kto" if _unpaired(rows) else "dpo"


def _unpaired(rows: Rows) -> bool:
    """Tell whether a row has one answer, with whether it is wanted."""
    return any(name == WANTED for name, _ in rows.train[0].more)


def _wanted(row: DataRow) -> bool:
    return bool(dict(row.more)[WANTED])


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Preferences()]
