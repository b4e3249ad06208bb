"""Read a recipe's data, fit the recipe to it, and encode the rows as the model will see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from adapterzoo.data.split import Splits, load_splits
from adapterzoo.data.stored_rows import StoredRows
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.errors import PluginError, Problem, UserError
from adapterzoo.machine.memory import available_outside_gpus
from adapterzoo.metrics.contract import per_example
from adapterzoo.metrics.measured import MEASURED_NAMES
from adapterzoo.metrics.registry import compares_answers, is_built_in, metrics
from adapterzoo.recipe.schema import Recipe
from adapterzoo.tasks.contract import EncodeInput, Task
from adapterzoo.tasks.examples import Examples
from adapterzoo.tasks.registry import tasks
from adapterzoo.terminal import size

MEMORY_PER_BYTE = 10  # a row and its tokens in memory, for each byte of its text
MENTIONED_BYTES = 2**27  # less than this is not worth a message
LIMIT_HINT = "Take fewer rows with data.limit."
TRIED_ROWS = 8  # number of test rows on which third-party metrics are tried


def read_data(recipe: Recipe, say: Callable[[str], None]) -> tuple[Recipe, Splits]:
    """Read the rows; return the recipe, with settings that depend on the rows, and the rows.

    This imports no library that loads models.

    Args:
        recipe: the recipe.
        say: is called with messages about what was dropped or chosen.

    Raises:
        UserError: the data or the metrics have problems; all of them are listed.
    """
    task = tasks()[recipe.task.name]
    splits = load_splits(recipe.data, say, task.formats)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"format": splits.format})})
    return fit_recipe(recipe, task, splits, say), splits


def encode_data(recipe: Recipe, location: str, config: Any, splits: Splits, say: Callable[[str], None]) -> Examples:
    """Encode the rows as tokens.

    Args:
        recipe: the recipe.
        location: folder or hub id from which transformers loads the model.
        config: the model's configuration, as transformers loads it.
        splits: the rows.
        say: is called with messages about what was cut or left out, and about answers that no model can give.

    Raises:
        UserError: the model has no usable tokenizer or chat template, or all rows are too long.
    """
    from adapterzoo.evaluation.references import notes_on_references
    from adapterzoo.tokens.encoded import Encoded
    from adapterzoo.tokens.tokenizer import load_tokenizer

    task, tokenizer = tasks()[recipe.task.name], load_tokenizer(recipe.model, location)
    if not task.causal:
        splits = _in_memory(task, splits, say)
    options = task.options(**recipe.task.options)
    given = EncodeInput(tokenizer, splits, options, recipe.data, say, recipe.evaluate.shots, config, task)
    encoded = task.encode(given)
    for note in notes_on_references(encoded, recipe.evaluate) if isinstance(encoded, Encoded) else ():
        say(note)
    return encoded


def _in_memory(task: Task[Any], splits: Splits, say: Callable[[str], None]) -> Splits:
    """Return the rows that a task holds in memory as lists, and say how much that is if they are many.

    Raises:
        UserError: there is not so much.
    """
    names = [name for name in SPLIT_NAMES if isinstance(getattr(splits, name), StoredRows)]
    if task.from_disk:
        names = [name for name in names if name != "train"]
    if not names:
        return splits
    needed = MEMORY_PER_BYTE * sum(getattr(splits, name).text_bytes for name in names)
    free = available_outside_gpus()
    which = "all rows" if not task.from_disk else " and ".join(f"{name} rows" for name in names)
    what = f"the task {task.name} holds {which} in memory, in about {size(needed)}"
    if needed > free:
        where, hint = ("data.split", "Give these splits fewer rows.") if task.from_disk else ("data.source", LIMIT_HINT)
        raise UserError.at(where, f"{what}, and {size(free)} are free.", hint)
    if needed > MENTIONED_BYTES or not task.from_disk:
        say(f"data: {what}")
    lists: dict[str, Any] = {name: [*getattr(splits, name)] for name in names}
    return replace(splits, **lists)


def fit_recipe(recipe: Recipe, task: Task[Any], splits: Splits, say: Callable[[str], None]) -> Recipe:
    """Return the recipe without default settings that do not suit its task and data.

    Raises:
        UserError: the recipe itself has a setting that does not suit its data.
    """
    settings = recipe.evaluate
    written = settings.model_fields_set
    options = task.options(**recipe.task.options)
    chosen = settings.metrics if "metrics" in written else [*task.default_metrics(splits, options)]
    changes: dict[str, Any] = {"metrics": chosen, "shots": settings.shots if task.causal else 0}
    problems: list[Problem] = []
    if task.causal and not any(row.prompt for row in splits.test):
        say("data: plain text has no questions, so no answers are compared and no examples are shown in prompts")
        compared = [name for name in chosen if name not in MEASURED_NAMES]
        if compared and "metrics" in written:
            what = f"'{compared[0]}' compares answers, and plain text has no answers."
            problems.append(Problem("evaluate.metrics", what, f"Choose from: {', '.join(sorted(MEASURED_NAMES))}."))
        if settings.shots and "shots" in written:
            problems.append(Problem("evaluate.shots", "plain text has no examples to show.", "Set it to 0."))
        changes = {"metrics": [name for name in chosen if name in MEASURED_NAMES], "shots": 0}
    elif len(splits.train) < changes["shots"]:
        what = f"{settings.shots} examples are to be shown, but there are {len(splits.train)} training rows."
        problems.append(Problem("evaluate.shots", what))
    problems += [*_failing_metrics(changes["metrics"], splits), *task.problems(splits, options, changes["metrics"])]
    if problems:
        raise UserError(*problems)
    return recipe.model_copy(update={"evaluate": settings.model_copy(update=changes)})


def _failing_metrics(names: Sequence[str], splits: Splits) -> Iterator[Problem]:
    """Yield a problem for each third-party metric that fails on the first test rows, before hours of training."""
    for name in names:
        if not compares_answers(name) or is_built_in(name):
            continue
        try:
            for reference in (row.completion.strip() for row in splits.test[:TRIED_ROWS]):
                for answer in (reference, ""):
                    per_example(metrics()[name], reference, answer)
        except PluginError as error:
            yield Problem("evaluate.metrics", f"{error}.", f"Correct it in {metrics().package(name)}, or leave it out.")
