"""Find the methods of all installed packages through the entry-point group ``adapterzoo``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from typing import Any

from adapterzoo import hookspecs
from adapterzoo.entry_points import PluginRegistry, check_attributes, check_summary
from adapterzoo.errors import PluginError
from adapterzoo.files import is_device_name
from adapterzoo.methods.contract import (
    CONTRACT,
    ENTRY_KEYS,
    GROUPS,
    QUANTIZATIONS,
    RENAMED,
    RESERVED_LABEL,
    TASK_TYPES,
    Method,
    Options,
    attributes,
)
from adapterzoo.methods.rules import RULES
from adapterzoo.quantizations.registry import quantizations

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class Registry(PluginRegistry[Method[Any]]):
    """The methods by name, and the plugins that were left out."""

    kind = "method"

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        super().__init__()
        # Fallbacks come after the methods that may replace them.
        self.load(entry_points, "adapterzoo_methods", _verify, _has_fallback)

    def _add(self, methods: Sequence[Method[Any]], package: str) -> None:
        replaced = {name: method.name for method in self.values() for name in method.stands_for}
        added = {}
        for method in methods:
            taken = method.name in self or method.name in replaced
            if method.fallback and taken:
                continue
            if method.name in added:
                raise PluginError(f"it has two methods named '{method.name}'")
            if taken:
                owner = self.package(replaced.get(method.name, method.name))
                raise PluginError(f"'{method.name}' is already the name of a method from {owner}")
            added[method.name] = method
        self.add(added, package)

    def require(self, name: str) -> Method[Any]:
        """Return a method by name.

        Raises:
            PluginError: there is no such method, or its plugin was left out.
        """
        if name in self:
            return self[name]
        raise PluginError(f"unknown method '{name}'. {self.hint(name)}")


@cache
def registry() -> Registry:
    """Return the registry of the installed methods, which are searched for only once."""
    return Registry(metadata.entry_points(group=hookspecs.PROJECT))


def _has_fallback(methods: Sequence[Method[Any]]) -> bool:
    return any(method.fallback for method in methods)


def _verify(method: object) -> None:
    """Raise PluginError if an object is not a valid method, and name the attribute that is wrong."""
    if not isinstance(method, Method):
        raise PluginError(f"it returned {method!r}, which is not an adapterzoo.Method")
    kind = type(method).__name__
    if type(method.contract) is not int or method.contract < 1:
        raise PluginError(f"{kind}.contract is {method.contract!r:.40}; write a whole number from 1 to {CONTRACT}")
    if method.contract > CONTRACT:
        raise PluginError(
            f"{kind} asks for contract {method.contract} and this adapterzoo has {CONTRACT}: upgrade adapterzoo"
        )
    # Refuse old names: if one were ignored, the base might not be quantized as the method asks, for example.
    for old, new in RENAMED.items():
        if hasattr(method, old):
            raise PluginError(f"{kind} has the attribute '{old}', which contract 2 calls '{new}'")
    check_attributes(method, attributes())
    check_summary(kind, method.summary)
    if not NAME.fullmatch(method.name):
        raise PluginError(f"{kind}.name is {method.name!r}: only lower-case letters, digits and '-'")
    if is_device_name(method.name):
        raise PluginError(f"{kind}.name is {method.name!r}: Windows keeps that name for a device")
    if RESERVED_LABEL.fullmatch(method.name):
        raise PluginError(f"{kind}.name is {method.name!r}: that is the label of the untouched base")
    if not 0 < method.learning_rate < 1e6:
        raise PluginError(
            f"{kind}.learning_rate is {method.learning_rate!r:.40}, which is not a number between 0 and a million"
        )
    if method.group not in GROUPS:
        raise PluginError(f"{kind}.group is {method.group!r}; choose from {', '.join(GROUPS)}")
    for attribute in ("quantizations", "mergeable_into"):
        names = getattr(method, attribute)
        if any(name not in QUANTIZATIONS and name not in [*quantizations()] for name in names):
            raise PluginError(f"{kind}.{attribute} names {names!r}; choose from {', '.join(quantizations())}")
    if any(name not in TASK_TYPES for name in method.task_types):
        raise PluginError(f"{kind}.task_types names {method.task_types!r}; choose from {', '.join(TASK_TYPES)}")
    if unknown := [rule for rule in method.departs_from if rule not in RULES]:
        raise PluginError(f"{kind}.departs_from names {unknown[0]!r}; choose from {', '.join(RULES)}")
    if not method.quantizations and not method.unavailable:
        raise PluginError(f"{kind}.quantizations is empty")
    if method.requires_quantization is not None and method.requires_quantization not in method.quantizations:
        raise PluginError(
            f"{kind}.requires_quantization {method.requires_quantization!r} is not among its quantizations"
        )
    if not method.fallback:  # the options of a fallback are built later, when they are needed
        _verify_options(method)


def _verify_options(method: Method[Any]) -> None:
    """Raise PluginError if the options could not be written in a recipe, or listed."""
    kind, options = type(method).__name__, getattr(method, "options", None)
    if not (isinstance(options, type) and issubclass(options, Options)):
        raise PluginError(f"{kind}.options is not a subclass of adapterzoo.Options")
    if method.size_option is not None and method.size_option not in options.model_fields:
        raise PluginError(f"{kind}.size_option {method.size_option!r} is not among its options")
    if required := [name for name, field in options.model_fields.items() if field.is_required()]:
        raise PluginError(
            f"{kind}.options has no default for {', '.join(required)}: a recipe may give a method's name alone"
        )
    if taken := sorted(ENTRY_KEYS & set(options.model_fields)):
        raise PluginError(f"{kind}.options has {', '.join(taken)}, which means something else in a recipe")
    try:
        options.model_json_schema()
        written = options().model_dump(mode="json")
        options(**written)
        json.dumps(written, allow_nan=False)
    except Exception as error:  # validators of third-party options may raise anything
        cause = " ".join(str(error).split())
        raise PluginError(
            f"{kind}.options: the defaults cannot be written in a recipe and read again: {cause}"
        ) from None
