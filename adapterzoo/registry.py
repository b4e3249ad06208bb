"""Finds the methods: every installed entry point in the group ``adapterzoo``, built-in or a stranger's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import pluggy

from adapterzoo import hookspecs
from adapterzoo.errors import PluginError, did_you_mean
from adapterzoo.method import BASES, CONTRACT, ENTRY_KEYS, GROUPS, Method, Options
from adapterzoo.terminal import output_aside

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
BUILT_IN = "adapterzoo"
# Set to 1, only the built-in methods are there.
NO_THIRD_PARTY = "ADAPTERZOO_NO_THIRD_PARTY"
NAMES = (tuple, list)
# Of a method: a generator would be used up by the first look, anything else could not be shown.
ATTRIBUTES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "summary": str,
    "paper": str,
    "group": str,
    "unavailable": (str, type(None)),
    "learning_rate": (int, float),
    "learning_rate_source": str,
    "bases": NAMES,
    "merges": NAMES,
    "stands_for": NAMES,
    "demands": (str, type(None)),
    "size_option": (str, type(None)),
    "fallback": bool,
    "resumes": bool,
    "starts_at_base": bool,
    "changes_base": bool,
    "reads_data": bool,
}


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
        brought, self.broken = bring(entry_points, "adapterzoo_methods", _verify)
        # The built-in ones first, so that nobody takes their names; what gives way, after those it gives way to.
        for entry_point, package, methods in sorted(brought, key=_precedence):
            try:
                self._add(methods, package)
            except Exception as error:
                self.broken.append(Broken(entry_point.name, package, reason(error)))

    def _add(self, methods: Sequence[Method[Any]], package: str) -> None:
        stood_for = {name for method in self._methods.values() for name in method.stands_for}
        added = {}
        for method in methods:
            taken = method.name in self._methods or method.name in stood_for
            if method.fallback and taken:
                continue
            if method.name in added:
                raise PluginError(f"it brings two methods named '{method.name}'")
            if taken:
                raise PluginError(f"'{method.name}' is already the name of a method from {self.package(method.name)}")
            added[method.name] = method
        self._methods.update(added)
        self._packages.update(dict.fromkeys(added, package))

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
        raise PluginError(f"unknown method '{name}'. {self.hint(name)}")

    def hint(self, name: str) -> str:
        """What to say to somebody who asks for a method that is not there."""
        left_out = [broken for broken in self.broken if name in (broken.plugin, broken.package)]
        return f"Its plugin was left out: {left_out[0].reason}." if left_out else did_you_mean(name, self)

    def package(self, name: str) -> str:
        """The distribution that brought a method."""
        return self._packages.get(name, BUILT_IN)


@cache
def registry() -> Registry:
    """The registry of this environment, read once."""
    return Registry(metadata.entry_points(group=hookspecs.PROJECT))


def bring(
    entry_points: Iterable[metadata.EntryPoint], hook: str, verify: Callable[[object], None]
) -> tuple[list[tuple[metadata.EntryPoint, str, list[Any]]], list[Broken]]:
    """What the plugins' hook of that name gives.

    Args:
        verify: looks at each thing brought, and raises what is wrong with it.

    Returns:
        Entry point, distribution and what it brings, for each sound plugin; and the others, with the reason.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    brought, broken = [], []
    # One by one: pluggy's own loader stops at the first plugin that fails to import, passes over a second
    # one of the same name, and lets one hook that raises abort the call for all.
    for entry_point in sorted(entry_points, key=lambda point: (_package(point), point.name)):
        package = _package(entry_point)
        if package != BUILT_IN and os.environ.get(NO_THIRD_PARTY, "0") not in ("", "0"):
            broken.append(Broken(entry_point.name, package, f"switched off by {NO_THIRD_PARTY}"))
            continue
        try:
            found = _load(manager, entry_point, package, hook)
            for one in found:
                verify(one)
            brought.append((entry_point, package, found))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may raise anything, even SystemExit
            broken.append(Broken(entry_point.name, package, reason(error)))
    return brought, broken


def _load(manager: pluggy.PluginManager, point: metadata.EntryPoint, package: str, hook: str) -> list[Any]:
    """What one entry point brings; nothing, where it has only the other hooks."""
    with output_aside():
        module = point.load()
        if manager.register(module, f"{package}:{point.name}") is None:
            raise PluginError("pluggy refused to register it")
        calls = {
            name: [call for call in getattr(manager.hook, name).get_hookimpls() if call.plugin is module]
            for name in hookspecs.HOOKS
        }
        if not any(calls.values()):
            raise PluginError(f"it has no {' or '.join(calls)} hook (is @hookimpl missing?)")
        if not calls[hook] and hasattr(module, hook):
            raise PluginError(f"its {hook} is no hook (is @hookimpl missing?)")
        found = calls[hook][0].function() if calls[hook] else []
    if not isinstance(found, list):
        raise PluginError(f"{hook} returned {found!r}, not a list of {hook.rpartition('_')[2]}")
    return found


def _precedence(brought: tuple[metadata.EntryPoint, str, Sequence[Method[Any]]]) -> tuple[bool, bool, str, str]:
    point, package, methods = brought
    return package != BUILT_IN, any(method.fallback for method in methods), package, point.name


def _package(entry_point: metadata.EntryPoint) -> str:
    if entry_point.dist is None:  # made here and not by an installed package
        return BUILT_IN if entry_point.module.startswith(f"{BUILT_IN}.") else "?"
    return entry_point.dist.name


def reason(error: BaseException) -> str:
    """Why a plugin was left out, in one line."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r}) while it was loaded"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _verify(method: object) -> None:
    """Raises PluginError where an object is not the Method it should be, naming the attribute."""
    if not isinstance(method, Method):
        raise PluginError(f"it returned {method!r}, which is no adapterzoo.Method")
    kind = type(method).__name__
    if not isinstance(method.contract, int) or method.contract > CONTRACT:
        raise PluginError(
            f"{kind} asks for contract {method.contract} and this adapterzoo has {CONTRACT}: upgrade adapterzoo"
        )
    for attribute, wanted in ATTRIBUTES.items():
        if not hasattr(method, attribute):
            raise PluginError(f"{kind} has no '{attribute}'")
        value = getattr(method, attribute)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise PluginError(f"{kind}.{attribute} is {value!r}, of type {type(value).__name__}")
    if not NAME.fullmatch(method.name):
        raise PluginError(f"{kind}.name is {method.name!r}: only lower-case letters, digits and '-'")
    if not 0 < method.learning_rate < 1e6:
        raise PluginError(f"{kind}.learning_rate is {method.learning_rate!r:.40}, no rate above 0")
    if method.group not in GROUPS:
        raise PluginError(f"{kind}.group is {method.group!r}; there is {', '.join(GROUPS)}")
    for attribute in ("bases", "merges"):
        named = getattr(method, attribute)
        if any(base not in BASES for base in named):
            raise PluginError(f"{kind}.{attribute} names {named!r}; there is {', '.join(BASES)}")
    if not method.bases and not method.unavailable:
        raise PluginError(f"{kind}.bases is empty")
    if method.demands is not None and method.demands not in method.bases:
        raise PluginError(f"{kind}.demands {method.demands!r}, which is not among its bases")
    if not method.fallback:  # whose options are made when they are asked for
        _verify_options(method)


def _verify_options(method: Method[Any]) -> None:
    """Raises PluginError where the options could not be written in a recipe, or shown."""
    kind, options = type(method).__name__, getattr(method, "options", None)
    if not (isinstance(options, type) and issubclass(options, Options)):
        raise PluginError(f"{kind}.options is no subclass of adapterzoo.Options")
    if method.size_option is not None and method.size_option not in options.model_fields:
        raise PluginError(f"{kind}.size_option {method.size_option!r} is not among its options")
    if required := [name for name, field in options.model_fields.items() if field.is_required()]:
        raise PluginError(f"{kind}.options has no default for {', '.join(required)}: a method is used by its name")
    if taken := sorted(ENTRY_KEYS & set(options.model_fields)):
        raise PluginError(f"{kind}.options has {', '.join(taken)}, which mean something else beside a method's name")
    try:
        options.model_json_schema()
        written = options().model_dump(mode="json")
        options(**written)
        json.dumps(written, allow_nan=False)
    except Exception as error:  # pydantic's errors, and those of a stranger's validators
        reason = " ".join(str(error).split())
        raise PluginError(
            f"{kind}.options: its defaults cannot be written in a recipe and read again: {reason}"
        ) from None
