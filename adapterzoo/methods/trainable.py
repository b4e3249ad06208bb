"""Tell whether a method can be trained on a quantization of the base model, and for a task.

A method declares the quantizations of ``QUANTIZATIONS`` that it trains on. On any other one it trains if that was
seen: the package of the method, or that of the quantization, keeps in its quantizations.json what the conformance kit
saw (``adapterzoo plugin quantization``).
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from adapterzoo.methods.contract import QUANTIZATIONS, TASK_TYPES
from adapterzoo.methods.registry import Registry
from adapterzoo.quantizations.registry import quantizations

FILE = "quantizations.json"


class QuantizationRecord(TypedDict):
    """The methods that the conformance kit has tried on one quantization, and whether each trains on it."""

    date: str
    versions: dict[str, str]
    """package -> version with which it was tried"""
    methods: dict[str, bool | str]
    """method -> True if it trains on the quantization, or why it does not"""


_TYPE = TypeAdapter(dict[str, QuantizationRecord])


def records(module: str) -> dict[str, QuantizationRecord]:
    """Return the records in the package of a plugin: name of a quantization -> what was seen of it.

    Args:
        module: name of the plugin's module.
    """
    return _file(getattr(sys.modules.get(module), "__package__", None) or "")


@cache
def _file(package: str) -> dict[str, QuantizationRecord]:
    """Return the content of the file of a package; empty if there is none, or one of another form."""
    if not package:  # a module that is in no package has no folder of its own
        return {}
    try:
        return read_records(files(package) / FILE)
    except (OSError, ValueError):
        return {}


def read_records(file: Traversable | Path) -> dict[str, QuantizationRecord]:
    """Return the content of a file of records.

    Raises:
        OSError: it cannot be read.
        ValueError: it has another form.
    """
    return _TYPE.validate_json(file.read_text(encoding="utf-8"))


def verdict(zoo: Registry, name: str, quantization: str) -> bool | str | None:
    """Return whether a method trains on a quantization: True, False or the reason why not; None if that is not known.

    Args:
        zoo: the installed methods.
        name: name of the method.
        quantization: name of the quantization.
    """
    method = zoo[name]
    if method.requires_quantization not in (None, quantization):
        return f"its base always has the quantization {method.requires_quantization}"
    found = _known(zoo, name, quantization)
    if found is None and quantization in quantizations() and (like := quantizations()[quantization].same_layers):
        return _known(zoo, name, like)
    return found


def _known(zoo: Registry, name: str, quantization: str) -> bool | str | None:
    """Return what a method declares about a quantization, or what was seen; None if neither says anything."""
    declared = zoo[name].quantizations
    if quantization in QUANTIZATIONS or quantization in declared:
        return quantization in declared
    for module in (zoo.module(name), quantizations().module(quantization)):
        seen = records(module).get(quantization, {"methods": {}})["methods"].get(name)
        if seen is not None:
            return seen
    return None


def trains_on(zoo: Registry, name: str) -> list[str]:
    """Return the names of the quantizations that a recipe with a method can ask for, first those that it declares."""
    declared, known = [*zoo[name].quantizations], quantizations()
    others = [other for other in known if other not in declared and not known[other].only_checkpoints]
    return declared + [other for other in others if verdict(zoo, name, other) is True]


def why_not_trainable(
    zoo: Registry, name: str, quantization: str, task_type: str = TASK_TYPES[0]
) -> tuple[str, str] | None:
    """Return why a method cannot be trained, as the end of a sentence about it, with a hint; None if it can.

    An unknown quantization is not reported here, because another check of the recipe reports it.

    Args:
        zoo: the installed methods.
        name: name of the method.
        quantization: the quantization in the recipe; a method that requires a quantization gets that one instead.
        task_type: PEFT's name for the type of the recipe's task.
    """
    method = zoo[name]
    if method.unavailable:
        return f"cannot be trained here: {method.unavailable}.", ""
    if task_type not in method.task_types:
        return f"cannot train a model for this task ({task_type}).", f"It can for: {', '.join(method.task_types)}."
    needed = method.requires_quantization or quantization
    if needed not in quantizations() or (found := verdict(zoo, name, needed)) is True:
        return None
    declared = method.quantizations
    others = [other for other in trains_on(zoo, name) if other not in declared]
    hint = f"It trains on: {', '.join(declared)}." + (f" And on: {', '.join(others)}." if others else "")
    if found is None:
        return f"was never tried on a base with quantization {needed}.", hint
    return f"cannot train on a base with quantization {needed}{f': {found}' if found else ''}.", hint
