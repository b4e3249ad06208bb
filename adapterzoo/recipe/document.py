"""Read a YAML file as plain data, and remember the line of every key.

It follows YAML 1.2: ``1e-4`` is a number, ``no`` is a word, and a key that is given twice is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from adapterzoo.errors import Problem, UserError
from adapterzoo.recipe.yaml_text import PARSE_ERRORS, Location, TooMuchError, duplicate_key, load, plain

# `adapterzoo init` writes this for each value that it cannot know and that the user has to fill in.
NOT_FILLED_IN = "???"
MAX_BYTES = 4 * 2**20  # the resolved recipe of a run may name tens of thousands of data files
MAX_DEPTH = 100  # of sections within sections


class Unfilled:
    """An object that replaces one ``???`` during the checks; it is not text, and is equal to no other object."""


class Document:
    """A YAML file: its content as plain data (``data``), and the line of each part of it (``where``)."""

    def __init__(self, data: Any, name: str, lines: Mapping[Location, int]) -> None:
        self.data = data
        self.name = name
        self._lines = lines
        self._overridden: dict[Location, str] = {}

    def where(self, location: Location) -> str:
        """Return ``file:line`` of a key, or of the nearest key around it that has one; or the ``--set`` option."""
        for end in range(len(location), -1, -1):
            if location[:end] in self._overridden:
                return self._overridden[location[:end]]
            if location[:end] in self._lines:
                return f"{self.name}:{self._lines[location[:end]]}"
        return self.name

    def override(self, assignments: Sequence[str]) -> None:
        """Set values by assignments like ``train.steps=10``; the part after ``=`` is YAML.

        Raises:
            UserError: an assignment has no ``=`` or no value, or its key is not inside a section.
        """
        problems = []
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            place = f"--set {assignment}"
            if not equals or not all(key.strip().split(".")):
                problems.append(Problem(place, "is not of the form key=value.", "For example: --set train.steps=10."))
                continue
            if not text.strip():
                problems.append(Problem(place, "has no value."))
                continue
            location: Location = tuple(key.strip().split("."))
            if len(location) > MAX_DEPTH:
                problems.append(Problem(place, f"has a key of {len(location)} parts; no section is that deep."))
                continue
            try:
                value = plain(load(text), (), {})
            except TooMuchError as error:
                problems.append(Problem(place, f"{error.problem}."))
                continue
            except PARSE_ERRORS:
                problems.append(Problem(place, "has a value that is not YAML."))
                continue
            target = self.data
            # A task may be given by its name alone; its options then go beside it.
            if location[0] == "task" and len(location) > 1 and isinstance(target.get("task"), str):
                target["task"] = {"name": target["task"]}
            for depth, part in enumerate(location[:-1], start=1):
                if isinstance(target, dict) and part not in target:
                    self._overridden[location[:depth]] = place
                target = target.setdefault(part, {}) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                problems.append(Problem(place, f"cannot be set: '{key}' is not inside a section."))
                continue
            target[location[-1]] = value
            self._overridden[location] = place
            # The file's lines belong to the old value, which is replaced.
            self._lines = {at: line for at, line in self._lines.items() if at[: len(location)] != location}
        if problems:
            raise UserError(*problems)

    def unfilled(self) -> list[Location]:
        """Return the locations of the values that are still to be filled in."""
        return [
            location
            for location, value in _leaves(self.data, ())
            if value == NOT_FILLED_IN or isinstance(value, Unfilled)
        ]

    def without_unfilled(self) -> Document:
        """Return a copy without ``???``, which the checks of names would report as an unknown name."""
        document = copy(self)
        document.data = _replace_unfilled(self.data)
        return document

    def overridden(self, location: Location) -> bool:
        """Tell whether an assignment set the value at this location."""
        return location in self._overridden


def read(path: Path) -> Document:
    """Read a YAML mapping from a file.

    Raises:
        UserError: the file is missing, is not UTF-8 text, is not YAML, or does not contain a mapping.
    """
    try:
        if not path.exists():
            raise UserError.at(str(path), "there is no such file.")
        if path.is_dir():
            raise UserError.at(str(path), "is a folder.", "Name the recipe file inside it.")
        if not path.is_file():  # reading a pipe may never end
            raise UserError.at(str(path), "is not an ordinary file.", "Write the recipe to a file first.")
        if path.stat().st_size > MAX_BYTES:
            raise UserError.at(str(path), f"is larger than {MAX_BYTES // 2**20} MB, and no recipe is.")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # a path may hold a NUL, and a file may not be UTF-8
        raise UserError.at(str(path), f"cannot be read: {error}.") from None
    try:
        loaded = load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        what = f"the key '{duplicate_key(error)}' is given twice."
        raise UserError.at(f"{path}:{line}", what, "Keep one of them.") from None
    except TooMuchError as error:
        mark = error.problem_mark
        place, hint = (f"{path}:{mark.line + 1}", "Write the values out.") if mark else (str(path), "")
        raise UserError.at(place, f"{error.problem}.", hint) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError.at(place, f"this is not YAML: {error.problem}.") from None
    except PARSE_ERRORS as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError.at(str(path), f"this is not YAML: {reason}.") from None
    if not isinstance(loaded, CommentedMap):
        raise UserError.at(str(path), "does not contain a recipe (a mapping of keys to values).")
    lines: dict[Location, int] = {(): 1}
    try:
        return Document(plain(loaded, (), lines), str(path), lines)
    except PARSE_ERRORS as error:
        raise UserError.at(str(path), f"cannot be read: {error}.") from None


def _leaves(value: Any, location: Location) -> Iterator[tuple[Location, Any]]:
    """Yield the location and the value of everything that is neither a mapping nor a list."""
    if not isinstance(value, (dict, list)):
        yield location, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(item, (*location, key))


def _replace_unfilled(value: Any) -> Any:
    """Return the same plain data with a new ``Unfilled`` in place of each ``???``."""
    if isinstance(value, dict):
        return {key: _replace_unfilled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_unfilled(item) for item in value]
    return Unfilled() if value == NOT_FILLED_IN else value


def section(document: Document, name: str) -> dict[str, Any]:
    """Return a section of a document; an empty one if it is missing or is not a mapping."""
    value = document.data.get(name)
    return value if isinstance(value, dict) else {}
