"""Find the quantizations of all installed packages through the entry-point group ``adapterzoo``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

from adapterzoo import hookspecs
from adapterzoo.entry_points import PluginRegistry, check_attributes, check_summary
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
    check_attributes(quantization, attributes())
    check_summary(kind, quantization.summary)
    if not all(isinstance(package, str) for package in quantization.packages):
        raise PluginError(f"{kind}.packages names {quantization.packages!r:.100}; write names of modules")
    if not NAME.fullmatch(quantization.name):
        raise PluginError(f"{kind}.name is {quantization.name!r}: only lower-case letters, digits and '-'")
