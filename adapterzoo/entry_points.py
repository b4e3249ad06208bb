"""Load what the plugins of installed packages bring, through the entry-point group ``adapterzoo``."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar, TypeVar, get_origin

import pluggy

from adapterzoo import hookspecs
from adapterzoo.errors import PluginError, did_you_mean
from adapterzoo.terminal import duration, stderr, stdout_to_stderr, tell

BUILT_IN = "adapterzoo"
# When this environment variable is 1, only the built-in methods, metrics, tasks and quantizations are loaded.
NO_THIRD_PARTY = "ADAPTERZOO_NO_THIRD_PARTY"
SLOW_SECONDS = 3.0  # a plugin that takes longer to load is named, because every command waits for it
MAX_BROKEN_SHOWN = 3  # plugins that were left out, in the hint for an unknown name
MAX_SUMMARY = 200  # in characters: lists show a summary in one line
ItemT = TypeVar("ItemT")  # a method, a metric, a task, a reward or a quantization


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out, with the reason."""

    plugin: str
    """name of the entry point"""
    package: str
    """name of the distribution that it belongs to"""
    reason: str


class PluginRegistry(Mapping[str, ItemT]):
    """Items of one kind from all plugins by name, and the plugins that were left out."""

    kind: ClassVar[str]
    """what an item is, for messages"""

    def __init__(self) -> None:
        self._items: dict[str, ItemT] = {}
        self._packages: dict[str, str] = {}
        self._modules: dict[str, str] = {}
        self._of_plugin: dict[str, list[str]] = {}
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
                known = set(self)
                self._add(items, package)
                self._modules.update(dict.fromkeys(set(self) - known, entry_point.module))
                self._of_plugin[entry_point.name] = [str(getattr(item, "name", item)) for item in items]
            except Exception as error:
                self.broken.append(BrokenPlugin(entry_point.name, package, reason(error)))

    def _add(self, items: Sequence[ItemT], package: str) -> None:
        """Check the names of the items of one plugin, and add them.

        Raises:
            PluginError: a name is taken.
        """
        added: dict[str, ItemT] = {}
        for item in items:
            name = str(getattr(item, "name"))  # noqa: B009  # each kind of item has a name
            if name in added or name in self:
                owner = package if name in added else self.package(name)
                raise PluginError(f"'{name}' is already the name of a {self.kind} from {owner}")
            added[name] = item
        self.add(added, package)

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

    def module(self, name: str) -> str:
        """Return the name of the plugin's module that an item comes from; empty if no plugin brought it."""
        return self._modules.get(name, "")

    def hint(self, name: str, more: Iterable[str] = ()) -> str:
        """Return a hint for a user who asked for a name that is not registered.

        Args:
            name: the unknown name.
            more: further names that are allowed in the same place.
        """
        left_out = [broken for broken in self.broken if name in (broken.plugin, broken.package)]
        if left_out:
            return f"Its plugin was left out: {left_out[0].reason}."
        if own := [item for item in self._of_plugin.get(name, []) if item in self]:
            return f"The plugin '{name}' has the name {' and '.join(own)} for it: write that."
        others = [f" {b.plugin} (from {b.package}) was left out: {b.reason}." for b in self.broken]
        return did_you_mean(name, {*self, *more}) + "".join(others[:MAX_BROKEN_SHOWN])


def check_attributes(plugin: object, expected: Mapping[str, Any]) -> None:
    """Raise PluginError if a plugin lacks an attribute, or has one of another type.

    Args:
        plugin: the plugin.
        expected: name -> type that its contract gives.
    """
    kind = type(plugin).__name__
    for attribute, hint in expected.items():
        if not hasattr(plugin, attribute):
            raise PluginError(f"{kind} has no '{attribute}'")
        value = getattr(plugin, attribute)
        if not _has_type(hint, value):
            wanted = getattr(hint, "__name__", hint)
            raise PluginError(f"{kind}.{attribute} is {value!r:.100}, of type {type(value).__name__}, not {wanted}")


def _has_type(hint: Any, value: object) -> bool:
    """Tell whether an attribute's value has the type that the contract gives."""
    if get_origin(hint) is Sequence:  # a generator is refused, because it can be read only once
        return isinstance(value, (tuple, list))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def check_summary(kind: str, summary: str) -> None:
    """Raise PluginError if the summary of a method or task is longer than a line."""
    if len(summary) > MAX_SUMMARY or len(summary.splitlines()) > 1:
        raise PluginError(f"{kind}.summary has {len(summary)} characters; one line of at most {MAX_SUMMARY} is wanted")


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
        except UserInterrupt:
            raise KeyboardInterrupt from None
        except BaseException as error:  # a third-party module may raise anything, even SystemExit
            broken.append(BrokenPlugin(entry_point.name, package, reason(error)))
    return loaded, broken


def _load(manager: pluggy.PluginManager, point: metadata.EntryPoint, package: str, hook: str) -> list[Any]:
    """Return the items that one entry point's hook returns; an empty list if it has only other hooks."""
    with stdout_to_stderr(), _keep_working_directory(), _keep_running():
        begun = time.perf_counter()
        module = point.load()
        if package != BUILT_IN and (seconds := time.perf_counter() - begun) > SLOW_SECONDS:
            what = "it should import large libraries only inside functions"
            tell(stderr(), f"the plugin {point.name} (from {package}) took {duration(seconds)} to load: {what}")
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


class UserInterrupt(BaseException):
    """The user pressed Ctrl-C while a plugin was loaded."""


@contextmanager
def _keep_running() -> Iterator[None]:
    """Raise PluginError in a ``with`` block if a plugin ends the process, or raises what a Ctrl-C of the user raises.

    Raises:
        UserInterrupt: the user did press Ctrl-C.
    """

    def refuse(code: object = 0) -> None:
        raise PluginError(f"it called os._exit({code!r}) while it was loaded")

    def interrupt(*_: object) -> None:
        raise UserInterrupt

    leave, on_interrupt = os._exit, signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    can_interrupt = in_main_thread and on_interrupt not in (signal.SIG_IGN, None)
    if can_interrupt:
        signal.signal(signal.SIGINT, interrupt)
    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    except KeyboardInterrupt:
        raise PluginError("it raised KeyboardInterrupt while it was loaded") from None
    finally:
        os._exit = leave
        if can_interrupt:
            signal.signal(signal.SIGINT, on_interrupt)


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
