"""Load the methods, metrics and tasks of installed packages, through the entry-point group ``adapterzoo``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

import pluggy

from adapterzoo import hookspecs
from adapterzoo.errors import PluginError, did_you_mean
from adapterzoo.terminal import stdout_to_stderr

BUILT_IN = "adapterzoo"
# When this environment variable is 1, only the built-in methods, metrics and tasks are loaded.
NO_THIRD_PARTY = "ADAPTERZOO_NO_THIRD_PARTY"
ItemT = TypeVar("ItemT")  # a method, a metric or a task


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out, with the reason."""

    plugin: str
    """name of the entry point"""
    package: str
    """name of the distribution that it belongs to"""
    reason: str


class PluginRegistry(Mapping[str, ItemT]):
    """The methods, the metrics or the tasks of all plugins by name, and the plugins that were left out."""

    def __init__(self) -> None:
        self._items: dict[str, ItemT] = {}
        self._packages: dict[str, str] = {}
        self.broken: list[BrokenPlugin] = []

    def load(
        self,
        entry_points: Iterable[metadata.EntryPoint],
        hook: str,
        verify: Callable[[object], None],
        is_last: Callable[[Sequence[ItemT]], bool] = lambda items: False,
    ) -> None:
        """Load the plugins and add what they return, first that of the built-in ones, whose names nobody may take.

        Args:
            entry_points: the entry points of the plugins.
            hook: name of the hook.
            verify: a function that raises an error for an item that is not valid.
            is_last: tells whether the items of a plugin are added after those of others.
        """
        loaded, self.broken = load_plugins(entry_points, hook, verify)
        loaded.sort(key=lambda plugin: (plugin[1] != BUILT_IN, is_last(plugin[2]), plugin[1], plugin[0].name))
        for entry_point, package, items in loaded:
            try:
                self._add(items, package)
            except Exception as error:
                self.broken.append(BrokenPlugin(entry_point.name, package, reason(error)))

    def _add(self, items: Sequence[ItemT], package: str) -> None:
        """Check the items of one plugin together with those that are known, and add them.

        Raises:
            PluginError: a name is taken.
        """
        raise NotImplementedError

    def add(self, items: Mapping[str, ItemT], package: str) -> None:
        """Add the items of one plugin, which belongs to a package."""
        self._items.update(items)
        self._packages.update(dict.fromkeys(items, package))

    def __getitem__(self, name: str) -> ItemT:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def package(self, name: str) -> str:
        """Return the name of the distribution that an item comes from."""
        return self._packages.get(name, BUILT_IN)

    def hint(self, name: str, more: Iterable[str] = ()) -> str:
        """Return a hint for a user who asked for a name that is not registered.

        Args:
            name: the unknown name.
            more: further names that are allowed in the same place.
        """
        left_out = [broken for broken in self.broken if name in (broken.plugin, broken.package)]
        return f"Its plugin was left out: {left_out[0].reason}." if left_out else did_you_mean(name, {*self, *more})


def load_plugins(
    entry_points: Iterable[metadata.EntryPoint], hook: str, verify: Callable[[object], None]
) -> tuple[list[tuple[metadata.EntryPoint, str, list[Any]]], list[BrokenPlugin]]:
    """Load every plugin and call one of its hooks.

    Args:
        entry_points: the entry points of the plugins.
        hook: name of the hook.
        verify: a function that raises an error for an item that is not valid.

    Returns:
        The entry point, the distribution and the items of each valid plugin; and the plugins that were left out.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    loaded, broken = [], []
    # Load the plugins one by one, because pluggy's own loader stops at the first plugin that fails to import and skips
    # a second plugin of the same name, and because pluggy calls no other hook after one that raises an error.
    for entry_point in sorted(entry_points, key=lambda point: (_package(point), point.name)):
        package = _package(entry_point)
        if package != BUILT_IN and os.environ.get(NO_THIRD_PARTY, "0") not in ("", "0"):
            broken.append(BrokenPlugin(entry_point.name, package, f"switched off by {NO_THIRD_PARTY}"))
            continue
        try:
            items = _load(manager, entry_point, package, hook)
            for item in items:
                verify(item)
            loaded.append((entry_point, package, items))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a third-party module may raise anything, even SystemExit
            broken.append(BrokenPlugin(entry_point.name, package, reason(error)))
    return loaded, broken


def _load(manager: pluggy.PluginManager, point: metadata.EntryPoint, package: str, hook: str) -> list[Any]:
    """Return the items that one entry point's hook returns; an empty list if it has only other hooks."""
    with stdout_to_stderr(), _keep_working_directory():
        module = point.load()
        if manager.register(module, f"{package}:{point.name}") is None:
            raise PluginError("pluggy refused to register it")
        hooks = {
            name: [call for call in getattr(manager.hook, name).get_hookimpls() if call.plugin is module]
            for name in hookspecs.HOOKS
        }
        if not any(hooks.values()):
            raise PluginError(f"it has no {' or '.join(hooks)} hook (is @hookimpl missing?)")
        if not hooks[hook] and hasattr(module, hook):
            raise PluginError(f"its {hook} is not a hook (is @hookimpl missing?)")
        items = hooks[hook][0].function() if hooks[hook] else []
    if not isinstance(items, list):
        raise PluginError(f"{hook} returned {items!r}, not a list of {hook.rpartition('_')[2]}")
    return items


@contextmanager
def _keep_working_directory() -> Iterator[None]:
    """Restore the working directory afterwards, because relative paths of the user start from it."""
    try:
        before = os.getcwd()
    except OSError:  # the directory was removed
        yield
        return
    try:
        yield
    finally:
        os.chdir(before)


def _package(entry_point: metadata.EntryPoint) -> str:
    """Return the name of an entry point's distribution; ``?`` if it has none."""
    if entry_point.dist is None:  # the entry point was created in code, not by an installed package
        return BUILT_IN if entry_point.module.startswith(f"{BUILT_IN}.") else "?"
    return entry_point.dist.name


def reason(error: BaseException) -> str:
    """Return why a plugin was left out, as one line."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r}) while it was loaded"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
