"""Read the recipe that a run keeps, changed so that its adapters are measured on other data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from adapterzoo.errors import Problem, UserError
from adapterzoo.recipe.document import read
from adapterzoo.recipe.problems import metric_problems
from adapterzoo.recipe.reading import find_files, put_paths
from adapterzoo.recipe.schema import Recipe
from adapterzoo.recipe.schema_problems import DocumentPart, problems_of

# Keys of the section data that belong to the data of the run, and say nothing on other data.
OF_ONE_SOURCE = ("source", "config", "revision", "delimiter", "filter", "shuffle", "limit", "drop_columns")
CHANGEABLE = ("data", "evaluate")


def other_data_recipe(path: Path, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a run, with another source of data; all its rows are test rows.

    The format, the columns, the template and how long rows are cut stay as they were in the run.

    Args:
        path: the recipe that the run keeps in its output folder.
        source: files, the folder of a saved dataset, or a hub id.
        overrides: assignments like ``data.columns={question: q}``, of the sections ``data`` and ``evaluate``.

    Raises:
        UserError: the source does not exist, or an assignment is wrong.
    """
    document = read(path)
    data = document.data.get("data")
    before = data if isinstance(data, dict) else {}
    kept = {name: value for name, value in before.items() if name not in (*OF_ONE_SOURCE, "split")}
    split = before.get("split")
    duplicates = split.get("duplicates", "error") if isinstance(split, dict) else "error"
    document.data["data"] = {**kept, "split": {"duplicates": duplicates}}
    if isinstance(evaluate := document.data.get("evaluate"), dict):
        evaluate.pop("general_text", None)  # it says nothing on other data
    named = f"data.source={json.dumps(source)}"
    document.override([*overrides, named])
    if other := [text for text in overrides if text.partition("=")[0].strip().partition(".")[0] not in CHANGEABLE]:
        what = "is not a setting of measuring: the adapters are trained already."
        raise UserError(*(Problem(f"--set {text}", what, "Set keys of data and evaluate.") for text in other))
    recipe, problems = None, []
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        problems = problems_of(error, DocumentPart(document, Recipe))
    problems += metric_problems(document)
    paths = find_files(document, Path(), problems)
    if problems or recipe is None:
        options = {f"--set {named}": f"--data {source}"}
        raise UserError(*(replace(problem, where=options.get(problem.where, problem.where)) for problem in problems))
    put_paths(recipe, paths)
    return recipe
