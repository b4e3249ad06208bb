"""What installed packages bring under the entry-point group ``adapterzoo``: methods, metrics; and what is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

import pluggy

from adapterzoo import hookspecs
from adapterzoo.errors import PluginError, did_you_mean
from adapterzoo.terminal import output_aside

BUILT_IN = "adapterzoo"
# Set to 1, only the built-in methods and metrics are there.
NO_THIRD_PARTY = "ADAPTERZOO_NO_THIRD_PARTY"
ThingT = TypeVar("ThingT")


@dataclass(frozen=True)
class Broken:
    """A plugin that was left out, and why."""

    plugin: str
    package: str
    reason: str


class Brought(Mapping[str, ThingT]):
    """Things by name, each with the distribution that brought it, and the plugins that had to be left out."""

    def __init__(self) -> None:
        self._things: dict[str, ThingT] = {}
        self._packages: dict[str, str] = {}
        self.broken: list[Broken] = []

    def add(self, things: Mapping[str, ThingT], package: str) -> None:
        """Put in what a plugin brings."""
        self._things.update(things)
        self._packages.update(dict.fromkeys(things, package))

    def __getitem__(self, name: str) -> ThingT:
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __len__(self) -> int:
        return len(self._things)

    def package(self, name: str) -> str:
        """The distribution that brought a thing."""
        return self._packages.get(name, BUILT_IN)

    def hint(self, name: str, more: Iterable[str] = ()) -> str:
        """What to say to somebody who asks for a thing that is not there.

        Args:
            more: names that are good as well.
        """
        left_out = [broken for broken in self.broken if name in (broken.plugin, broken.package)]
        return f"Its plugin was left out: {left_out[0].reason}." if left_out else did_you_mean(name, {*self, *more})


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
    with output_aside(), _working_directory_kept():
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


@contextmanager
def _working_directory_kept() -> Iterator[None]:
    """Have the working directory afterwards that there was: relative paths of the user mean that one."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        yield
        return
    try:
        yield
    finally:
        os.chdir(here)


def _package(entry_point: metadata.EntryPoint) -> str:
    if entry_point.dist is None:  # made here and not by an installed package
        return BUILT_IN if entry_point.module.startswith(f"{BUILT_IN}.") else "?"
    return entry_point.dist.name


def reason(error: BaseException) -> str:
    """Why a plugin was left out, in one line."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r}) while it was loaded"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
