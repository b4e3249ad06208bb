"""Finds the methods: every installed entry point in the group ``adapterzoo``, built-in or a stranger's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import pluggy

from adapterzoo import hookspecs
from adapterzoo.errors import PluginError, did_you_mean
from adapterzoo.method import BASES, Method, Options

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Broken:
    """A plugin that was left out, and why."""

    plugin: str
    package: str
    reason: str


class Registry:
    """The methods by name, and the plugins that had to be left out."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        self._methods: dict[str, Method[Any]] = {}
        self._packages: dict[str, str] = {}
        self.broken: list[Broken] = []
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        # One by one: pluggy's own loader stops at the first plugin that fails to import, passes over a second
        # one of the same name, and lets one hook that raises abort the call for all.
        for entry_point in sorted(entry_points, key=lambda point: (_package(point) != "adapterzoo", point.name)):
            package = _package(entry_point)
            try:
                self._register(manager, entry_point, package)
            except Exception as error:  # a stranger's module may raise anything, and must not stop the others
                self.broken.append(Broken(entry_point.name, package, f"{type(error).__name__}: {error}"))

    def _register(self, manager: pluggy.PluginManager, point: metadata.EntryPoint, package: str) -> None:
        module = point.load()
        if manager.register(module, f"{package}:{point.name}") is None:
            raise PluginError("pluggy refused to register it")
        calls = [call for call in manager.hook.adapterzoo_methods.get_hookimpls() if call.plugin is module]
        if not calls:
            raise PluginError("it has no adapterzoo_methods hook (is @hookimpl missing?)")
        found = calls[0].function()
        if not isinstance(found, list):
            raise PluginError(f"adapterzoo_methods returned {found!r}, not a list of methods")
        for method in found:
            _verify(method)
            if method.name in self._methods:
                raise PluginError(f"'{method.name}' is already the name of a method from {self.package(method.name)}")
        for method in found:
            self._methods[method.name] = method
            self._packages[method.name] = package

    def __getitem__(self, name: str) -> Method[Any]:
        return self._methods[name]

    def __contains__(self, name: str) -> bool:
        return name in self._methods

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._methods))

    def __len__(self) -> int:
        return len(self._methods)

    def require(self, name: str) -> Method[Any]:
        """A method by name.

        Raises:
            PluginError: there is none, or its plugin was left out; says why, or which was meant.
        """
        if name in self:
            return self[name]
        left_out = [broken for broken in self.broken if name in (broken.plugin, broken.package)]
        hint = f"Its plugin was left out: {left_out[0].reason}." if left_out else did_you_mean(name, self)
        raise PluginError(f"unknown method '{name}'. {hint}")

    def package(self, name: str) -> str:
        """The distribution that brought a method."""
        return self._packages[name]


@cache
def registry() -> Registry:
    """The registry of this environment, read once."""
    return Registry(metadata.entry_points(group=hookspecs.PROJECT))


def _package(entry_point: metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "?"


def _verify(method: object) -> None:
    """Raises PluginError where an object is not the Method it should be, naming the attribute."""
    if not isinstance(method, Method):
        raise PluginError(f"it returned {method!r}, which is no adapterzoo.Method")
    kind = type(method).__name__
    for attribute in ("name", "summary", "paper", "options", "learning_rate", "learning_rate_source"):
        if not hasattr(method, attribute):
            raise PluginError(f"{kind} has no '{attribute}'")
    if not isinstance(method.name, str) or not NAME.fullmatch(method.name):
        raise PluginError(f"{kind}.name is {method.name!r}: only lower-case letters, digits and '-'")
    if not (isinstance(method.options, type) and issubclass(method.options, Options)):
        raise PluginError(f"{kind}.options is no subclass of adapterzoo.Options")
    if unknown := set(method.bases) - set(BASES):
        raise PluginError(f"{kind}.bases names {', '.join(sorted(unknown))}; there is {', '.join(BASES)}")
    if method.demands is not None and method.demands not in method.bases:
        raise PluginError(f"{kind}.demands {method.demands!r}, which is not among its bases")
    if method.size_option is not None and method.size_option not in method.options.model_fields:
        raise PluginError(f"{kind}.size_option {method.size_option!r} is not among its options")
