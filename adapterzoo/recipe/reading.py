"""Read a recipe and check all of it, so that every problem is reported at once, each with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.errors import Problem, UserError
from adapterzoo.methods.contract import Method
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.recipe.document import Document, read, section
from adapterzoo.recipe.files import find_file, find_source, is_hub_id
from adapterzoo.recipe.problems import (
    method_problems,
    metric_problems,
    quantization_problems,
    task_problems,
    tune_problems,
)
from adapterzoo.recipe.schema import SHIPPED, MethodEntry, Recipe
from adapterzoo.recipe.schema_problems import DocumentPart, problems_of, unfilled_problems
from adapterzoo.recipe.yaml_text import Location
from adapterzoo.tasks.contract import TASK_KEYS
from adapterzoo.tasks.registry import tasks


def load_recipe(path: str | Path, overrides: Sequence[str] = (), zoo: Registry | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: assignments like ``train.steps=10``, which replace values of the file.
        zoo: the methods that the recipe may name; by default all that are installed.

    Raises:
        UserError: the recipe has problems; the error has all of them, each with its line.
    """
    path = Path(path)
    document = read(path)
    document.override(overrides)
    _keep_overridden_length(document)
    zoo = registry() if zoo is None else zoo
    problems = unfilled_problems(document)
    recipe = None
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        problems += problems_of(error, DocumentPart(document, Recipe))
    # These checks read the document, not the recipe, so that they also run when the schema refuses it.
    filled = document.without_unfilled()
    problems += quantization_problems(filled)
    problems += task_problems(filled)
    problems += method_problems(filled, zoo)
    problems += tune_problems(filled, zoo)
    problems += metric_problems(filled)
    paths = find_files(filled, path.parent, problems)
    if problems or recipe is None:
        raise UserError(*problems)
    put_paths(recipe, paths)
    task = tasks()[recipe.task.name]
    recipe.task.__pydantic_extra__ = task.options(**recipe.task.options).model_dump(mode="json")
    for entry in recipe.methods:
        complete_entry(entry, zoo[entry.name], recipe.train.learning_rate)
    return recipe


def require_trust(recipe: Recipe, path: Path, trust_remote_code: bool) -> None:
    """Raise UserError if a recipe from an output folder asks to run a model's own code, and the user does not allow it.

    Args:
        recipe: the recipe.
        path: its file.
        trust_remote_code: whether the user allows it.
    """
    if recipe.model.trust_remote_code and not trust_remote_code:
        what = f"says that the code that comes with the model {recipe.model.name} is run."
        raise UserError.at(str(path), what, "If you trust its authors, give --trust-remote-code.")


def complete_entry(entry: MethodEntry, method: Method[Any], learning_rate: float | Literal["auto"]) -> None:
    """Fill in the defaults of an entry's options and its learning rate, so that the resolved recipe is complete."""
    entry.__pydantic_extra__ = method.options(**entry.options).model_dump(mode="json")
    if entry.learning_rate == "auto":
        entry.learning_rate = method.learning_rate if learning_rate == "auto" else float(learning_rate)


def kept_recipe(recipe: Recipe, zoo: Registry) -> dict[str, Any]:
    """Return the resolved recipe without what it would be refused for if it is run again.

    These are the options that its budget and its tuning set, and the defaults of keys that its task does not use.
    """
    resolved, uses = recipe.resolved(), tasks()[recipe.task.name].uses
    resolved["data"] = {key: value for key, value in resolved["data"].items() if key not in TASK_KEYS or key in uses}
    for entry in resolved["methods"]:
        for name in (*recipe.tune, *([zoo[entry["name"]].size_option] if recipe.budget else [])):
            entry.pop(name, None)
    return resolved


def _keep_overridden_length(document: Document) -> None:
    """Drop the file's epochs if the command line sets steps, and the file's steps if it sets epochs."""
    train = document.data.get("train")
    if not isinstance(train, dict):
        return
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if document.overridden(("train", given)) and not document.overridden(("train", other)):
            train.pop(other, None)


def find_files(document: Document, folder: Path, problems: list[Problem]) -> dict[Location, list[str]]:
    """Return the absolute paths of the files that each key names; add a problem for each file that is missing."""
    data, evaluate = (section(document, name) for name in ("data", "evaluate"))
    named: dict[Location, Any] = {("data", "source"): data.get("source")}
    if (general := evaluate.get("general_text")) != SHIPPED:
        named["evaluate", "general_text"] = general
    template = data.get("chat_template")
    if template not in ("auto", "plain"):
        named["data", "chat_template"] = template
    split = data.get("split")
    # In a dataset with splits of its own, a single name is one of those splits and not a file.
    source = data.get("source")
    has_splits = isinstance(source, str) and (is_hub_id(source) or not Path(source).suffix)
    for part, value in split.items() if isinstance(split, dict) else ():
        if part not in SPLIT_NAMES:
            continue
        if isinstance(value, list) or (isinstance(value, str) and not has_splits):
            named["data", "split", part] = value
    paths: dict[Location, list[str]] = {}
    for location, value in named.items():
        find = find_file if location[-1] in ("chat_template", "general_text") else find_source
        for name in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            if not isinstance(name, str) or not name:
                continue  # The check of the schema reports it.
            absolute, problem = find(name, folder)
            paths.setdefault(location, []).extend(absolute)
            if problem is not None:
                problems.append(Problem(document.where(location), problem.what, problem.hint))
    return paths


def put_paths(recipe: Recipe, paths: Mapping[Location, list[str]]) -> None:
    """Replace the file names in a recipe by their absolute paths, so that the resolved recipe runs from anywhere."""
    for location, absolute in paths.items():
        if location == ("data", "source"):
            recipe.data.source = absolute
        elif location == ("data", "chat_template"):
            recipe.data.chat_template = absolute[0]
        elif location == ("evaluate", "general_text"):
            recipe.evaluate.general_text = absolute[0]
        else:
            setattr(recipe.data.split, str(location[-1]), absolute)
