"""The types of a recipe's values; each refuses a wrong value with one plain sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from adapterzoo.files import is_device_name

# Windows removes a dot at the end of a name.
SAFE_NAME = re.compile(r"(?!.*\.$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked(accepts: Callable[[Any], bool], wanted: str) -> BeforeValidator:
    """Return a validator that refuses a value with one sentence; pydantic would give one for each possible type."""

    def check(value: Any) -> Any:
        if not accepts(value):
            # YAML reads 12 and 1e3 as numbers, and true as neither text nor number.
            hint = " Put it in quotes." if wanted.startswith("text") and isinstance(value, (int, float)) else ""
            raise PydanticCustomError(
                "value", "must be {wanted}, not {value}.{hint}", {"wanted": wanted, "value": repr(value), "hint": hint}
            )
        return value

    check.__doc__ = wanted  # docs/recipe.md shows it as the type of a key.
    return BeforeValidator(check)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_safe_name(value: Any) -> bool:
    return isinstance(value, str) and SAFE_NAME.fullmatch(value) is not None


Name = Annotated[
    str,
    checked(lambda value: not is_device_name(value), "another name, because Windows keeps this one for a device"),
    checked(_is_safe_name, "text of letters, digits, '.', '_' and '-' (it becomes a folder)"),
]
LearningRate = Annotated[
    float | Literal["auto"],
    checked(lambda value: value == "auto" or (_is_number(value) and value > 0), "a positive number, or auto"),
]
StepsOrShare = Annotated[
    int | float,
    checked(
        lambda value: _is_number(value) and value >= 0 and (isinstance(value, int) or value < 1),
        "a number of steps, or a share of all steps below 1",
    ),
]


PositiveOrAuto = Annotated[
    int | Literal["auto"],
    checked(lambda value: value == "auto" or (type(value) is int and value > 0), "a positive whole number, or auto"),
]
CountOrAuto = Annotated[
    int | Literal["auto"],
    checked(
        lambda value: value == "auto" or (type(value) is int and value >= 0), "0, a positive whole number, or auto"
    ),
]


_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kMB]?)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def _count(value: Any) -> int | None:
    """Return a number that may be written like ``2.5M``; None if it is not a number from 1 on."""
    if isinstance(value, str) and (match := _COUNT.fullmatch(value.strip())):
        value = float(match[1]) * _UNITS[match[2]]
    return round(value) if _is_number(value) and value >= 1 else None


Count = Annotated[
    int,
    BeforeValidator(_count, json_schema_input_type=int | str),  # This runs second: pydantic runs the last one first.
    checked(lambda value: _count(value) is not None, "a number like 2500000, 250k or 2.5M"),
]

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


def _bytes(value: Any) -> int | None:
    """Return a number of bytes that may be written like ``20GB`` or ``20GiB``; None if it is none."""
    if isinstance(value, str) and (match := _MEMORY.fullmatch(value.strip())):
        value = float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]]
    return round(value) if _is_number(value) and value >= 0 else None


def _max_memory(value: Any) -> dict[int | str, int] | None:
    """Return place -> bytes, where a place is the number of a GPU or ``cpu``; None if a value is something else."""
    if not isinstance(value, dict) or not value:
        return None
    # In JSON, and so in a recipe that was written for a run, every key is a text.
    places = [int(place) if isinstance(place, str) and place.isdecimal() else place for place in value]
    sizes = [_bytes(size) for size in value.values()]
    if None in sizes or not all(place == "cpu" or (type(place) is int and place >= 0) for place in places):
        return None
    return {place: size for place, size in zip(places, sizes, strict=True) if size is not None}


MaxMemory = Annotated[
    dict[int | str, int],
    BeforeValidator(_max_memory, json_schema_input_type=dict[str, int | str]),
    checked(
        lambda value: _max_memory(value) is not None,
        "numbers of GPUs, and cpu, with sizes in kB, MB, GB or TB, like {0: 20GB, cpu: 60GB}",
    ),
]


def _is_part(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, list):
        return bool(value) and all(isinstance(name, str) and name for name in value)
    return _is_number(value) and 0 <= value <= 1


SplitPart = Annotated[
    float | str | list[str],
    checked(_is_part, "a share from 0 to 1, the name of a split, or files"),
    AfterValidator(lambda value: float(value) if isinstance(value, int) else value),
]
Source = Annotated[
    str | list[str],
    checked(lambda value: isinstance(value, (str, list)) and _is_part(value), "a file, a list of files, or a hub id"),
]
Scalar = str | int | float | bool


class Section(BaseModel):
    """A section of a recipe: it refuses unknown keys, and does not convert a value to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
