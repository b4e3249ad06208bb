"""Turn the errors of pydantic into plain sentences with the file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from adapterzoo.errors import Problem, did_you_mean
from adapterzoo.recipe.document import NOT_FILLED_IN, Document
from adapterzoo.recipe.yaml_text import Location

# If a value may have several types, pydantic ends its location with a tag, which starts with one of these keys.
TYPE_TAGS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list[": "a list",
    "dict[": "a mapping",
    "literal[": "a word",
}


@dataclass(frozen=True)
class DocumentPart:
    """A part of a document, and the schema that it should follow."""

    document: Document
    schema: type[BaseModel]
    location: Location = ()
    more_keys: Sequence[str] = ()
    """keys that the part may have in addition to those of the schema"""


def unfilled_problems(document: Document) -> list[Problem]:
    """Return a problem for each key that still holds ``???``."""
    return [
        Problem(
            document.where(location),
            f"'{'.'.join(map(str, location))}' is not filled in yet.",
            f"Replace {NOT_FILLED_IN} by "
            + ("the name of a column of your data." if location[:2] == ("data", "columns") else "a value."),
        )
        for location in document.unfilled()
    ]


def problems_of(error: ValidationError, part: DocumentPart) -> list[Problem]:
    """Return one problem for each wrong key; pydantic may have one error for each type that its value can have."""
    by_key: dict[Location, list[ErrorDetails]] = {}
    unfilled = set(part.document.unfilled())
    for details in error.errors():
        if _is_unfilled(details, part, unfilled):
            continue  # unfilled_problems reports it.
        location = details["loc"]
        if len(location) > 1 and str(location[-1]).startswith(tuple(TYPE_TAGS)):
            location = location[:-1]
        by_key.setdefault(location, []).append(details)
    problems = []
    for location, alternatives in by_key.items():
        if len(alternatives) == 1:
            problems.append(_problem(alternatives[0], part))
            continue
        types = " or ".join(dict.fromkeys(_type_words(str(details["loc"][-1])) for details in alternatives))
        key = ".".join(map(str, location))
        what = f"'{key}' is {alternatives[0]['input']!r}; it can be {types}."
        problems.append(Problem(part.document.where((*part.location, *location)), what))
    return problems


def _type_words(tag: str) -> str:
    """Return a type tag of pydantic in plain words; those of a literal are its values."""
    if tag.startswith("literal["):
        return tag[len("literal[") : -1].replace("'", "").replace(",", ", ")
    return next((words for start, words in TYPE_TAGS.items() if tag.startswith(start)), tag)


def _is_unfilled(details: ErrorDetails, part: DocumentPart, unfilled: Set[Location]) -> bool:
    """Tell whether an error is about a value that is still to be filled in."""
    location = (*part.location, *_location_in_part(details))
    inside = any(location[:end] in unfilled for end in range(len(location) + 1))
    return inside or details["input"] == NOT_FILLED_IN  # A label copied from an unfilled name has no location.


def _location_in_part(details: ErrorDetails) -> Location:
    """Return the location of an error within its part; checks that compare several keys give it as ``at``."""
    return (*details["loc"], *details.get("ctx", {}).get("at", ()))


def _problem(details: ErrorDetails, part: DocumentPart) -> Problem:
    """Return one error of pydantic as a problem."""
    location = _location_in_part(details)
    where = part.document.where((*part.location, *location))
    key = ".".join(map(str, location)) or "the recipe"
    kind, context = details["type"], details.get("ctx", {})
    value = details["input"]
    if kind == "extra_forbidden":
        hint = did_you_mean(str(location[-1]), [*_keys_at(part.schema, location[:-1]), *part.more_keys])
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
            hint if "Did" in hint else "",  # a list of all choices would repeat the sentence
        )
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return Problem(where, f"'{key}' must be a section of keys and values, not {value!r}.")
    message = details["msg"][0].lower() + details["msg"][1:]
    return Problem(where, f"'{key}' is {value!r}: {message}.")


def _keys_at(schema: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys that a schema allows at a location."""
    fields: Mapping[str, Any] = schema.model_fields
    for key in map(str, location):
        annotation = fields[key].annotation if key in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        fields = annotation.model_fields
    return list(fields)
