"""Read a recipe's data, fit the recipe to it, and encode the rows as the model will see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.data.split import Splits, load_splits
from adapterzoo.errors import Problem, UserError
from adapterzoo.metrics.measured import MEASURED_NAMES
from adapterzoo.metrics.registry import metrics as known_metrics
from adapterzoo.recipe.schema import Recipe

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoded, Encoder

MAX_UNKNOWN_LABELS = 5  # further labels that only test rows have are counted but not named
MAX_LEARNED_LABELS = 10  # number of labels of the training rows that the hint lists


def read_data(recipe: Recipe, say: Callable[[str], None]) -> tuple[Recipe, Splits]:
    """Read the rows; return the recipe, with settings that depend on the rows, and the rows.

    This imports no library that loads models.

    Args:
        recipe: the recipe.
        say: is called with messages about what was dropped or chosen.

    Raises:
        UserError: the data or the metrics have problems; all of them are listed.
    """
    splits = load_splits(recipe.data, say)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"format": splits.format})})
    return _fitted(recipe, splits, say), splits


def encode_data(recipe: Recipe, location: str, splits: Splits, say: Callable[[str], None]) -> tuple[Encoder, Encoded]:
    """Encode the rows as tokens; return the encoder and the encoded rows.

    Args:
        recipe: the recipe.
        location: folder or hub id from which transformers loads the model.
        splits: the rows.
        say: is called with messages about what was cut or left out.

    Raises:
        UserError: the model has no usable tokenizer or chat template, or all rows are too long.
    """
    from adapterzoo.tokens import cache, encode

    encoder = encode.Encoder(encode.load_tokenizer(recipe.model, location), recipe.data, say)
    return encoder, cache.encode_splits(encoder, splits)


def _fitted(recipe: Recipe, splits: Splits, say: Callable[[str], None]) -> Recipe:
    """Return the recipe without default settings that do not suit its data.

    Raises:
        UserError: the recipe itself has a setting that does not suit its data.
    """
    settings = recipe.evaluate
    written = settings.model_fields_set
    problems: list[Problem] = []
    changes: dict[str, Any] = {}
    if not any(row.prompt for row in splits.test):
        compared = [name for name in settings.metrics if name not in MEASURED_NAMES]
        if compared and "metrics" in written:
            what = f"'{compared[0]}' compares answers, and plain text has no answers."
            problems.append(Problem("evaluate.metrics", what, f"Choose from: {', '.join(sorted(MEASURED_NAMES))}."))
        if settings.shots and "shots" in written:
            problems.append(Problem("evaluate.shots", "plain text has no examples to show.", "Set it to 0."))
        changes = {"metrics": [name for name in settings.metrics if name in MEASURED_NAMES], "shots": 0}
    elif len(splits.train) < settings.shots:
        what = f"{settings.shots} examples are to be shown, but there are {len(splits.train)} training rows."
        problems.append(Problem("evaluate.shots", what))
    problems += _unknown_labels(settings.metrics, splits)
    if problems:
        raise UserError(*problems)
    if not changes:
        return recipe
    say("data: plain text has no questions, so no answers are compared and no examples are shown in prompts")
    return recipe.model_copy(update={"evaluate": settings.model_copy(update=changes)})


def _unknown_labels(metrics: Sequence[str], splits: Splits) -> list[Problem]:
    """Return problems for the test labels that no training row has, if a metric compares labels."""
    compared = [known_metrics()[name] for name in metrics if name not in MEASURED_NAMES]
    label = next((metric.label for metric in compared if metric.label), None)
    if label is None:
        return []
    learned = {label(row.completion) for row in splits.train}
    unknown = {label(row.completion): row for row in splits.test if label(row.completion) not in learned}
    problems = [Problem(row.place, f"its label '{row.completion}' is in no training row.") for row in unknown.values()]
    shown = problems[:MAX_UNKNOWN_LABELS]
    if shown:
        what = f"{len(unknown)} labels are only in the test rows: no method can know them."
        more = ["..."] if len(learned) > MAX_LEARNED_LABELS else []
        labels = ", ".join([*sorted(learned)[:MAX_LEARNED_LABELS], *more])
        hint = f"Correct them, give more rows, or measure something else. Training rows have: {labels}."
        shown.append(Problem("evaluate.metrics", what, hint))
    return shown


def shown_prompts(encoder: Encoder, encoded: Encoded, shots: int) -> list[list[int]]:
    """Return the test prompts with training examples in front, as token ids; none if ``shots`` is 0."""
    rows = [example.row for example in encoded.train[:shots]]
    return [encoder.prompt(example.row, rows) for example in encoded.test] if rows else []
