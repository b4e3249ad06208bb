"""Reads a recipe: the document, the schema and the methods, with every problem at once and each with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from adapterzoo.errors import Problem, UserError
from adapterzoo.methods.contract import Method
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.recipe import document
from adapterzoo.recipe.document import Document, Location, section
from adapterzoo.recipe.files import find_file, find_source, is_hub_id
from adapterzoo.recipe.problems import method_problems, metric_problems, tune_problems
from adapterzoo.recipe.schema import SHIPPED, MethodEntry, Recipe
from adapterzoo.recipe.schema_problems import Part, problems_of, unfilled_problems
from adapterzoo.row import PARTS


def load_recipe(path: str | Path, overrides: Sequence[str] = (), zoo: Registry | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: assignments like ``train.steps=10`` that replace what the file says.
        zoo: the methods to check against; by default all that are installed.

    Raises:
        UserError: with every problem of the recipe, each with its line.
    """
    path = Path(path)
    source = document.read(path)
    source.override(overrides)
    _one_length(source)
    zoo = registry() if zoo is None else zoo
    problems = unfilled_problems(source)
    recipe = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        problems += problems_of(error, Part(source, Recipe))
    # From the raw data, so that one mistake elsewhere does not hide those in the methods.
    filled = source.without_unfilled()
    problems += method_problems(filled, zoo)
    problems += tune_problems(filled, zoo)
    problems += metric_problems(filled)
    found = _find_files(filled, path.parent, problems)
    if problems or recipe is None:
        raise UserError(*problems)
    _put_paths(recipe, found)
    for entry in recipe.methods:
        complete_entry(entry, zoo[entry.name], recipe.train.learning_rate)
    return recipe


def complete_entry(entry: MethodEntry, method: Method[Any], learning_rate: float | Literal["auto"]) -> None:
    """Spell out an entry's options and learning rate, so that the resolved recipe says what was run."""
    entry.__pydantic_extra__ = method.options(**entry.options).model_dump(mode="json")
    if entry.learning_rate == "auto":
        entry.learning_rate = method.learning_rate if learning_rate == "auto" else float(learning_rate)


def kept_recipe(recipe: Recipe, zoo: Registry) -> dict[str, Any]:
    """The resolved recipe, in which what its budget and tuning set is left to them, so that it can be run again."""
    resolved = recipe.resolved()
    for entry in resolved["methods"]:
        for name in (*recipe.tune, *([zoo[entry["name"]].size_option] if recipe.budget else [])):
            entry.pop(name, None)
    return resolved


def _one_length(source: Document) -> None:
    """Steps that are set on the command line stand in place of the file's epochs, and the other way round."""
    train = source.data.get("train")
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if isinstance(train, dict) and source.overridden(("train", given)) and not source.overridden(("train", other)):
            train.pop(other, None)


def _find_files(source: Document, folder: Path, problems: list[Problem]) -> dict[Location, list[str]]:
    """What each file that the recipe names is, by the key that names it; adds to the problems what is not there."""
    data, evaluate = (section(source, name) for name in ("data", "evaluate"))
    named: dict[Location, Any] = {("data", "source"): data.get("source")}
    if (general := evaluate.get("general_text")) != SHIPPED:
        named["evaluate", "general_text"] = general
    template = data.get("chat_template")
    if template not in ("auto", "plain"):
        named["data", "chat_template"] = template
    split = data.get("split")
    # A single name is a split of the source, where that is a dataset with splits.
    whole = data.get("source")
    splits = isinstance(whole, str) and (is_hub_id(whole) or not Path(whole).suffix)
    for part, value in split.items() if isinstance(split, dict) else ():
        if part not in PARTS:
            continue
        if isinstance(value, list) or (isinstance(value, str) and not splits):
            named["data", "split", part] = value
    found: dict[Location, list[str]] = {}
    for location, value in named.items():
        for one in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            if not isinstance(one, str) or not one:
                continue  # said by the recipe's own check
            if location[-1] in ("chat_template", "general_text"):
                paths, problem = find_file(one, folder)
            else:
                paths, problem = find_source(one, folder)
            found.setdefault(location, []).extend(paths)
            if problem is not None:
                problems.append(Problem(source.where(location), problem.what, problem.hint))
    return found


def _put_paths(recipe: Recipe, found: Mapping[Location, list[str]]) -> None:
    """Absolute paths in place of what the user wrote, so that the resolved recipe can be run from anywhere."""
    for location, paths in found.items():
        if location == ("data", "source"):
            recipe.data.source = paths
        elif location == ("data", "chat_template"):
            recipe.data.chat_template = paths[0]
        elif location == ("evaluate", "general_text"):
            recipe.evaluate.general_text = paths[0]
        else:
            setattr(recipe.data.split, str(location[-1]), paths)
