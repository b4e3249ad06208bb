"""A YAML document as plain data that remembers the line of every key.

YAML 1.2 rules, so that ``1e-4`` is a number, ``no`` is a word, and a key given twice is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from adapterzoo.errors import Problem, UserError

Location = tuple[str | int, ...]
# Stands where a value is still to be filled in: `adapterzoo init` writes it for what it cannot know.
NOT_FILLED_IN = "???"
# Beside its own errors, the parser lets through those of the types it makes: a date that is none, a broken !!tag.
NOT_YAML = (YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


class Unfilled:
    """Stands for a ``???`` in what checks are given: it is no name to look up, and two are never the same label."""


class Document:
    """What was read (``data``) and where each part of it stands (``where``)."""

    def __init__(self, data: Any, name: str, lines: Mapping[Location, int]) -> None:
        self.data = data
        self.name = name
        self._lines = lines
        self._overridden: dict[Location, str] = {}

    def where(self, location: Location) -> str:
        """``file:line`` of the nearest enclosing key, or the ``--set`` that put the value there."""
        for end in range(len(location), -1, -1):
            if location[:end] in self._overridden:
                return self._overridden[location[:end]]
            if location[:end] in self._lines:
                return f"{self.name}:{self._lines[location[:end]]}"
        return self.name

    def override(self, assignments: Sequence[str]) -> None:
        """Set ``train.steps=10`` and the like; values are YAML.

        Raises:
            UserError: for each assignment that has no ``=``, or whose path leads through a value.
        """
        problems = []
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            place = f"--set {assignment}"
            if not equals or not all(path.strip().split(".")):
                problems.append(Problem(place, "is not of the form key=value.", "Like --set train.steps=10."))
                continue
            if not text.strip():
                problems.append(Problem(place, "has no value."))
                continue
            try:
                value = _plain(YAML(typ="rt").load(text), (), {})
            except NOT_YAML:
                problems.append(Problem(place, "has a value that is not YAML."))
                continue
            location: Location = tuple(path.strip().split("."))
            target = self.data
            for depth, part in enumerate(location[:-1], start=1):
                if isinstance(target, dict) and part not in target:
                    self._overridden[location[:depth]] = place
                target = target.setdefault(part, {}) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                problems.append(Problem(place, f"cannot be set: '{path}' is not inside a section."))
                continue
            target[location[-1]] = value
            self._overridden[location] = place
            # Lines of what stood there before say nothing of what stands there now.
            self._lines = {at: line for at, line in self._lines.items() if at[: len(location)] != location}
        if problems:
            raise UserError(*problems)

    def unfilled(self) -> list[Location]:
        """Return the places of the keys and items that are still to be filled in."""
        return [at for at, value in _leaves(self.data, ()) if value == NOT_FILLED_IN or isinstance(value, Unfilled)]

    def without_unfilled(self) -> Document:
        """Return the same document for checks that would take ``???`` for a name, and say that it is unknown."""
        other = copy(self)
        other.data = _set_aside(self.data)
        return other

    def overridden(self, location: Location) -> bool:
        """Whether an assignment put the value there."""
        return location in self._overridden


def read(path: Path) -> Document:
    """Read a YAML mapping from a file.

    Raises:
        UserError: the file is missing, is no UTF-8 text, does not parse, or holds something other than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError.at(str(path), "there is no such file.") from None
    except IsADirectoryError:
        raise UserError.at(str(path), "is a folder.", "Name the recipe file inside it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError.at(str(path), f"cannot be read: {error}.") from None
    try:
        loaded = YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        raise UserError.at(f"{path}:{line}", "this key is given twice.", "Keep one of them.") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError.at(place, f"this is not YAML: {error.problem}.") from None
    except NOT_YAML as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError.at(str(path), f"this is not YAML: {reason}.") from None
    if not isinstance(loaded, CommentedMap):
        raise UserError.at(str(path), "holds no recipe (a mapping of keys to values).")
    lines: dict[Location, int] = {(): 1}
    try:
        return Document(_plain(loaded, (), lines), str(path), lines)
    except NOT_YAML as error:
        raise UserError.at(str(path), f"cannot be read: {error}.") from None


def _plain(value: Any, location: Location, lines: dict[Location, int]) -> Any:
    """Builtin types in place of ruamel's; notes in ``lines`` the 1-based line of every key and item."""
    if isinstance(value, CommentedMap):
        for key in value:
            lines[(*location, str(key))] = value.lc.key(key)[0] + 1 if key in value.lc.data else 1
        return {str(key): _plain(item, (*location, str(key)), lines) for key, item in value.items()}
    if isinstance(value, CommentedSeq):
        for index in range(len(value)):
            if value.lc.data and index in value.lc.data:
                lines[(*location, index)] = value.lc.item(index)[0] + 1
        return [_plain(item, (*location, index), lines) for index, item in enumerate(value)]
    for builtin in (bool, int, float, str):
        if isinstance(value, builtin):
            if isinstance(value, str):
                value.encode()  # half a surrogate pair is no text: raises ValueError
            return builtin(value)
    if value is None:
        return None
    return str(getattr(value, "value", value))


def _leaves(value: Any, location: Location) -> Iterator[tuple[Location, Any]]:
    """Return each value that is neither a mapping nor a list, with its place."""
    if not isinstance(value, (dict, list)):
        yield location, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(item, (*location, key))


def _set_aside(value: Any) -> Any:
    """Return plain data with an object of its own in place of each ``???``."""
    if isinstance(value, dict):
        return {key: _set_aside(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_set_aside(item) for item in value]
    return Unfilled() if value == NOT_FILLED_IN else value


def section(source: Document, name: str) -> dict[str, Any]:
    """A section of a document; empty where it is not there, or is none."""
    found = source.data.get(name)
    return found if isinstance(found, dict) else {}
