"""Reads a recipe: the document, the schema and the methods, with every problem at once and each with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from adapterzoo import document
from adapterzoo.data.row import PARTS
from adapterzoo.data.sources import find_file, find_source, is_hub_id
from adapterzoo.document import Document, Location
from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.method import BASES, ENTRY_KEYS, Method
from adapterzoo.metric import RESERVED
from adapterzoo.metric_registry import metrics
from adapterzoo.recipe import RESERVED_LABEL, SHIPPED, MethodEntry, Recipe
from adapterzoo.registry import Registry, registry

# What pydantic puts behind a key whose value may be of several types.
TYPE_TAGS = ("str", "int", "float", "bool", "list[", "dict[", "literal[")


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
    problems: list[Problem] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        problems += _problems(error, _Part(source, Recipe))
    # From the raw data, so that one mistake elsewhere does not hide those in the methods.
    problems += _method_problems(source, zoo)
    problems += _metric_problems(source)
    found = _find_files(source, path.parent, problems)
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


def _one_length(source: Document) -> None:
    """Steps that are set on the command line stand in place of the file's epochs, and the other way round."""
    train = source.data.get("train")
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if isinstance(train, dict) and source.overridden(("train", given)) and not source.overridden(("train", other)):
            train.pop(other, None)


def _find_files(source: Document, folder: Path, problems: list[Problem]) -> dict[Location, list[str]]:
    """What each file that the recipe names is, by the key that names it; adds to the problems what is not there."""
    data, evaluate = (_section(source, name) for name in ("data", "evaluate"))
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
                problems.append(Problem(source.where(location), problem.what, problem.cure))
    return found


def _section(source: Document, name: str) -> dict[str, Any]:
    found = source.data.get(name)
    return found if isinstance(found, dict) else {}


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


def _metric_problems(source: Document) -> list[Problem]:
    """Metrics that are not there."""
    names = _section(source, "evaluate").get("metrics")
    known = metrics()
    return [
        Problem(source.where(("evaluate", "metrics", index)), f"unknown metric '{name}'.", known.hint(name))
        for index, name in enumerate(names if isinstance(names, list) else [])
        if isinstance(name, str) and name not in known and name not in RESERVED
    ]


def _method_problems(source: Document, zoo: Registry) -> list[Problem]:
    """Unknown methods and options, labels given twice, and methods on a base that they cannot train on."""
    model = source.data.get("model")
    quantization = model.get("quantization", "none") if isinstance(model, dict) else "none"
    entries = source.data.get("methods")
    problems: list[Problem] = []
    labels: set[str] = set()
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        location: Location = ("methods", index)
        settings = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
            names = [key for key in settings if key in zoo] if isinstance(settings, dict) else []
            if len(names) == 1:
                what = "a method's options stand beside its name."
                problems.append(Problem(source.where(location), what, f"Like {{name: {names[0]}, label: mine}}."))
            continue  # the rest is said by the recipe's own check
        name = settings["name"]
        label = str(settings.get("label", name))
        if label in labels:
            problems.append(
                Problem(source.where(location), f"'{label}' is there twice.", "Give one of them a label of its own.")
            )
        if RESERVED_LABEL.fullmatch(label):
            problems.append(
                Problem(source.where(location), f"the label '{label}' is taken: by the untouched base, or a file.")
            )
        labels.add(label)
        if name not in zoo:
            problems.append(Problem(source.where((*location, "name")), f"unknown method '{name}'.", zoo.hint(name)))
            continue
        method = zoo[name]
        if method.unavailable:
            what = f"{name} cannot be trained here: {method.unavailable}."
            problems.append(Problem(source.where((*location, "name")), what))
            continue
        base = method.demands or quantization
        if base in BASES and base not in method.bases:  # what is no quantization at all is said elsewhere
            problems.append(
                Problem(
                    source.where(location),
                    f"{name} cannot train on a base with quantization {base}.",
                    f"It trains on: {', '.join(method.bases)}.",
                )
            )
        try:
            method.options(**{key: value for key, value in settings.items() if key not in ENTRY_KEYS})
        except ValidationError as error:
            problems += _problems(error, _Part(source, method.options, location, sorted(ENTRY_KEYS)))
        except Exception as error:  # a validator of a stranger's options may raise anything
            what = f"the options of {name} cannot be checked: {type(error).__name__}: {error}."
            problems.append(Problem(source.where(location), what, f"That is a fault of {zoo.package(name)}."))
    return problems


@dataclass(frozen=True)
class _Part:
    """A part of the document, and the schema that it should follow."""

    source: Document
    schema: type[BaseModel]
    location: Location = ()
    more_keys: Sequence[str] = ()
    """keys that the part may have beside the schema's"""


def _problems(error: ValidationError, part: _Part) -> list[Problem]:
    """A sentence for each key that is wrong: of a value of several possible types pydantic lists every type."""
    by_key: dict[Location, list[ErrorDetails]] = {}
    for details in error.errors():
        location = details["loc"]
        if len(location) > 1 and str(location[-1]).startswith(TYPE_TAGS):
            location = location[:-1]
        by_key.setdefault(location, []).append(details)
    problems = []
    for location, alternatives in by_key.items():
        if len(alternatives) == 1:
            problems.append(_problem(alternatives[0], part))
            continue
        wanted = " or ".join(str(details["loc"][-1]) for details in alternatives)
        key = ".".join(map(str, location))
        what = f"'{key}' is {alternatives[0]['input']!r}; it can be {wanted}."
        problems.append(Problem(part.source.where((*part.location, *location)), what))
    return problems


def _problem(details: ErrorDetails, part: _Part) -> Problem:
    """A pydantic error as a sentence with the file and line."""
    # A check across several keys says itself which of them it means.
    inner = (*details["loc"], *details.get("ctx", {}).get("at", ()))
    where = part.source.where((*part.location, *inner))
    key = ".".join(str(part) for part in inner) or "the recipe"
    kind, context = details["type"], details.get("ctx", {})
    value = details["input"]
    if kind == "extra_forbidden":
        hint = did_you_mean(str(inner[-1]), [*_keys_at(part.schema, inner[:-1]), *part.more_keys])
        return Problem(where, f"unknown key '{key}'.", hint)
    if kind == "missing":
        return Problem(where, f"'{key}' is missing.")
    if kind == "value":
        return Problem(where, f"'{key}' {details['msg']}")
    if kind == "too_short":
        return Problem(where, f"'{key}' is empty.", "Give at least one.")
    if kind == "literal_error":
        expected = [word.strip("' ") for word in context["expected"].replace(" or ", ", ").split(", ")]
        hint = did_you_mean(value, expected) if isinstance(value, str) else ""
        return Problem(
            where,
            f"'{key}' is {value!r}; it can be {', '.join(expected)}.",
            hint if "Did" in hint else "",
        )
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return Problem(where, f"'{key}' must be a section of keys and values, not {value!r}.")
    message = details["msg"][0].lower() + details["msg"][1:]
    return Problem(where, f"'{key}' is {value!r}: {message}.")


def _keys_at(schema: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that a recipe may have at a place."""
    fields: Mapping[str, Any] = schema.model_fields
    for part in location:
        annotation = fields[str(part)].annotation if str(part) in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        fields = annotation.model_fields
    return list(fields)
