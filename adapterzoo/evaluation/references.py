"""Say which right answers no model can give, because of the recipe or of the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapterzoo.evaluation.decoding import decoded
from adapterzoo.metrics.texts import same_text
from adapterzoo.tasks.evaluation import needs_answers
from adapterzoo.tasks.examples import EvaluateSettings
from adapterzoo.tokens.encoded import Encoded, Example, lengths

MAX_READ = 1000  # number of answers that are turned into text again; those of a large file would take minutes


def notes_on_references(encoded: Encoded, settings: EvaluateSettings) -> Iterator[str]:
    """Yield messages about right answers of the test split that are longer than allowed, or that tokens cannot express.

    Args:
        encoded: the encoded rows.
        settings: the metrics, and how long an answer may be.
    """
    if not needs_answers(settings.metrics):
        return
    limit = settings.max_new_tokens
    if limit != "auto" and (long := sum(size - 1 > limit for size in lengths(encoded.test, "completion"))):
        what = f"{long} of {len(encoded.test)} test answers have more tokens than evaluate.max_new_tokens, {limit}"
        yield f"data: {what}, so that no model can give them whole"
    read: Sequence[Example] = encoded.test[:MAX_READ]
    changed = [
        (example.row.completion.strip(), text)
        for example in read
        # The encoder has already counted the answers that max_length cuts short.
        if example.completion[-1] in encoded.end_ids
        and not same_text(example.row.completion, text := decoded(example.completion, encoded))
    ]
    if changed:
        reference, text = changed[0]
        what = f"{len(changed)} of {len(read)} test answers are another text after the tokenizer, as {reference!r}"
        yield f"data: {what} is {text!r}: no model can give them as they are"
