"""Choose other values for a method's options, from their types and limits."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

# A float that is zero by default, such as a dropout, gets this value.
SMALL = 0.1
# An option that is None by default gets the value of its type.
VALUES_FOR_NONE: dict[Any, Any] = {bool: True, int: 4, float: 0.01}
TARGETS = ("q_proj", "v_proj")
"""names of two layers in each block of the tiny Llama"""


def other_values(options: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield the name of each option that can have another value, and that value, which may still not be accepted.

    Texts and lists are left out, apart from the names of layers, because their other values cannot be guessed.
    """
    for name, field in type(options).model_fields.items():
        for value in _candidates(field.annotation, getattr(options, name), name):
            if value != getattr(options, name) and changed(options, **{name: value}) is not None:
                yield name, value
                break


def other_sizes(options: BaseModel, name: str) -> Iterator[Any]:
    """Yield the options with other values of a size option, the most usual ones first."""
    default = getattr(options, name)
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        whole = isinstance(default, int)
        for factor in (2, 0.5, 4, 0.25, 3, 1.5, 0.75):
            value = round(default * factor) if whole else default * factor
            other = changed(options, **{name: value}) if value != default else None
            if other is not None:
                yield other


def changed(options: BaseModel, **values: Any) -> BaseModel | None:
    """Return options with some values changed; None if the method's options do not allow them."""
    try:
        return type(options)(**{**options.model_dump(), **values})
    except ValidationError:
        return None


def _candidates(kind: Any, default: Any, name: str) -> list[Any]:
    """Return other values of an option's type, the most usual ones first."""
    if name == "target_modules":
        return [list(TARGETS), ["query_key_value"]]
    if get_origin(kind) is Literal:
        return [value for value in get_args(kind) if value != default]
    if get_origin(kind) in (Union, UnionType):
        return [value for part in get_args(kind) for value in _candidates(part, default, name)]
    if default is None:
        return [VALUES_FOR_NONE[kind]] if kind in VALUES_FOR_NONE else []
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int):
        return [default * 2, default + 1, default // 2, default - 1]
    if isinstance(default, float):
        return [default * 1.5, default * 0.5] if default else [SMALL]
    return []
