"""Find the quantizations of all installed packages through the entry-point group ``adapterzoo``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, get_origin

from adapterzoo import hookspecs
from adapterzoo.entry_points import PluginRegistry, check_summary
from adapterzoo.errors import PluginError
from adapterzoo.quantizations.contract import Quantization, Reason, attributes

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class Quantizations(PluginRegistry[Quantization]):
    """The quantizations by name, and the broken plugins whose quantizations are left out."""

    kind = "quantization"

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        super().__init__()
        self.load(entry_points, "adapterzoo_quantizations", _verify)

    def why_not(self, name: str) -> Reason | None:
        """Return why a model cannot be loaded with a quantization here, known or not; None if it can."""
        if name not in self:
            return Reason(f"unknown quantization '{name}'.", self.hint(name))
        return self[name].why_not_here()

    def of_checkpoint(self, saved: Mapping[str, Any]) -> Quantization | None:
        """Return the quantization with which a model comes; None if no installed one recognises it.

        Args:
            saved: the value of ``quantization_config`` in its config.json.
        """
        return next((quantization for quantization in self.values() if quantization.recognises(saved)), None)


@cache
def quantizations() -> Quantizations:
    """Return the installed quantizations; they are searched for only once."""
    return Quantizations(metadata.entry_points(group=hookspecs.PROJECT))


def _verify(quantization: object) -> None:
    """Raise PluginError if an object is not a quantization, and name the attribute that is wrong."""
    if not isinstance(quantization, Quantization):
        raise PluginError(f"it returned {quantization!r:.100}, which is not an adapterzoo.Quantization")
    kind = type(quantization).__name__
    for attribute, hint in attributes().items():
        if not hasattr(quantization, attribute):
            raise PluginError(f"{kind} has no '{attribute}'")
        value = getattr(quantization, attribute)
        if not _has_type(hint, value):
            wanted = getattr(hint, "__name__", hint)
            raise PluginError(f"{kind}.{attribute} is {value!r:.100}, of type {type(value).__name__}, not {wanted}")
    check_summary(kind, quantization.summary)
    if not NAME.fullmatch(quantization.name):
        raise PluginError(f"{kind}.name is {quantization.name!r}: only lower-case letters, digits and '-'")


def _has_type(hint: Any, value: object) -> bool:
    """Tell whether an attribute's value has the type that the contract gives."""
    if get_origin(hint) is not None and issubclass(get_origin(hint), Iterable):
        return isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
