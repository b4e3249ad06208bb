"""What pydantic finds wrong with a document, as sentences with the file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from adapterzoo.errors import Problem, did_you_mean
from adapterzoo.recipe.document import NOT_FILLED_IN, Document, Location

# What pydantic puts behind a key whose value may be of several types.
TYPE_TAGS = ("str", "int", "float", "bool", "list[", "dict[", "literal[")


@dataclass(frozen=True)
class Part:
    """A part of the document, and the schema that it should follow."""

    source: Document
    schema: type[BaseModel]
    location: Location = ()
    more_keys: Sequence[str] = ()
    """keys that the part may have beside the schema's"""


def unfilled_problems(source: Document) -> list[Problem]:
    """Return a problem for each key that still holds ``???``."""
    return [
        Problem(
            source.where(location),
            f"'{'.'.join(map(str, location))}' is not filled in yet.",
            f"Replace {NOT_FILLED_IN} by "
            + ("the name of a column of your data." if location[:2] == ("data", "columns") else "a value."),
        )
        for location in source.unfilled()
    ]


def problems_of(error: ValidationError, part: Part) -> list[Problem]:
    """A sentence for each key that is wrong: of a value of several possible types pydantic lists every type."""
    by_key: dict[Location, list[ErrorDetails]] = {}
    unfilled = set(part.source.unfilled())
    for details in error.errors():
        if _is_unfilled(details, part, unfilled):
            continue  # said by unfilled_problems
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


def _is_unfilled(details: ErrorDetails, part: Part, unfilled: Set[Location]) -> bool:
    """Return whether pydantic complains of a value that is still to be filled in."""
    location = (*part.location, *_inner(details))
    inside = any(location[:end] in unfilled for end in range(len(location) + 1))
    return inside or details["input"] == NOT_FILLED_IN  # a method's label is its name, where none is given


def _inner(details: ErrorDetails) -> Location:
    """Return where an error is within its part; a check across several keys says itself which of them it means."""
    return (*details["loc"], *details.get("ctx", {}).get("at", ()))


def _problem(details: ErrorDetails, part: Part) -> Problem:
    """A pydantic error as a sentence with the file and line."""
    inner = _inner(details)
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
