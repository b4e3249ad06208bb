"""Measure a model in the same way for every row of the table: likelihoods of the test rows, and scores of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapterzoo.evaluation.answers import answer, answer_first
from adapterzoo.evaluation.decoding import decoded
from adapterzoo.evaluation.likelihood import likelihoods
from adapterzoo.tasks.batches import hidden_rows
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of, needs_answers
from adapterzoo.tasks.examples import EvaluateSettings
from adapterzoo.tokens.batches import row_tokens
from adapterzoo.tokens.encoded import Encoded, Example, lengths
from adapterzoo.tokens.shared_prefix import SharedPrefix
from adapterzoo.tokens.stored_examples import of_each

if TYPE_CHECKING:
    from torch import nn


def evaluate(
    model: nn.Module,
    encoded: Encoded,
    settings: EvaluateSettings,
    prompts: Sequence[list[int]] | None = None,
    *,
    split: str = "test",
    with_likelihoods: bool = True,
    prefix: SharedPrefix | None = None,
) -> Evaluation:
    """Measure a model on a split.

    Args:
        model: the model; it is left in evaluation mode.
        encoded: the encoded rows.
        settings: the metrics and the batch size.
        prompts: prompts that replace the examples' own, in the same order; for example, prompts with examples in front.
        split: name of the split to measure on; tuning measures on ``validation``.
        with_likelihoods: whether to measure likelihoods; with other prompts they may not be comparable.
        prefix: joins rows that begin with the same tokens into one sequence; None if rows are padded.

    Raises:
        NotFiniteError: the loss is NaN or infinite, for example because the last training step broke the weights.
        PluginError: a third-party metric does not do what the contract says.
    """
    examples: Sequence[Example] = getattr(encoded, split)
    asked = of_each(examples, lambda index: examples[index].prompt) if prompts is None else prompts
    longest, size, first = int(max(lengths(examples, "completion"))), settings.batch_size, None
    limit = longest if settings.max_new_tokens == "auto" else settings.max_new_tokens
    if needs_answers(settings.metrics):
        first_prompts = [*asked[:size]]
        with hidden_rows(encoded):
            first = answer_first(model, encoded, first_prompts, limit, size, prefix)
    rows = of_each(
        examples,
        lambda index: (
            examples[index].tokens if prompts is None else row_tokens(prompts[index], examples[index].completion)
        ),
    )
    measured: Sequence[Likelihood | None] = [None] * len(rows)
    answers: Sequence[str | None] = [None] * len(rows)
    remembered = 0.0
    if first is not None:
        ids, measured, remembered = answer(
            model, encoded, asked, rows, first, limit, size, prefix, with_likelihoods=with_likelihoods
        )
        answers = [decoded(tokens, encoded) for tokens in ids]
    elif with_likelihoods:
        measured = likelihoods(model, rows, encoded.pad_id, size, prefix)
    data_rows = of_each(examples, lambda index: examples[index].row)
    seconds = first.seconds if first is not None else None
    evaluation = evaluation_of(data_rows, measured, answers, settings.metrics, split, seconds)
    return evaluation._replace(remembered=remembered)
