"""The data format of words and their tags, and the rules that tags follow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo import Problem
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.formats import Format
from adapterzoo.formats.cell_text import kind_of, list_of, text_of
from adapterzoo.metrics.built_in.entities import OUTSIDE
from adapterzoo.tasks.contract import Rows
from adapterzoo.tasks.once import once

MAX_SHOWN = 5  # further rows with the same problem are only counted
SPACE = " "  # between words and between tags in a text
PREFIXED = re.compile(r"[BI]-.+")
NUMBERED = "Write their names, such as B-PER. If the numbers are their names, write them as texts."


@dataclass(frozen=True)
class Tagged(Format):
    """A format of words and their tags: two lists, or two texts with single spaces."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the words as a text, and the tags as the answer."""
        words, tags = (_items(cells.get(column), column) for column in self.columns)
        if len(words) != len(tags):
            what = f"it has {len(words)} words and {len(tags)} tags."
            raise BadRowError(what, f"Give each word one tag; a word that is no entity has {OUTSIDE}.")
        return [Turn("user", SPACE.join(words)), Turn("assistant", SPACE.join(tags))]


def _items(value: Any, column: str) -> list[str]:
    """Return the words or tags in a cell.

    Raises:
        EmptyRowError: the cell is empty.
        BadRowError: one of them is empty, has white space in it, or is the number of a tag.
    """
    if (listed := list_of(value)) is not None:
        value = listed
        if column == "tags" and any(kind_of(item) == "a number" for item in value):
            raise BadRowError("its tags are numbers.", NUMBERED)
        items = [text_of(item, column) for item in value]
    else:
        text = text_of(value, column).strip()
        items = text.split(SPACE) if text else []
    if not items:
        raise EmptyRowError(column)
    for number, item in enumerate(items, start=1):
        if not item or any(sign.isspace() for sign in item):
            wrong = f"has white space in it: '{item}'" if item.strip() else "is empty"
            hint = "Make each an item of its own, or put exactly one space between them if they are a text."
            raise BadRowError(f"item {number} of its '{column}' {wrong}.", hint)
    return items


def tags_of(row: DataRow) -> list[str]:
    return row.completion.split(SPACE)


@dataclass(frozen=True)
class Tags:
    """The different tags of the rows of a split, and where their prefixes break a rule."""

    names: frozenset[str]
    misplaced: Mapping[str, int]
    """prefix -> number of rows in which it is at a place where one of the schemes does not allow it"""
    first: Mapping[str, Sequence[tuple[DataRow, int]]]
    """prefix -> the first such rows, each with the place of the tag"""


def tags_in(rows: Sequence[DataRow]) -> Tags:
    """Return the tags of the rows of a split; :func:`prefix_problems` has the rules."""
    names, misplaced = set[str](), {"I": 0, "B": 0}
    first: dict[str, list[tuple[DataRow, int]]] = {"I": [], "B": []}
    for row in rows:
        tags = tags_of(row)
        names.update(tags)
        for prefix, shown in first.items():
            if (place := _misplaced(tags, prefix)) is not None:
                misplaced[prefix] += 1
                if len(shown) < MAX_SHOWN:
                    shown.append((row, place))
    return Tags(frozenset(names), misplaced, first)


train_tags = once(tags_in)


def prefix_problems(rows: Rows) -> list[Problem]:
    """Return problems if only some tags have prefixes, or if a prefix is at a place where no scheme allows it."""
    splits = _splits(rows)
    entities = frozenset[str]().union(*(tags.names for tags in splits)) - {OUTSIDE}
    with_prefix = set(filter(PREFIXED.fullmatch, entities))
    if with_prefix and (plain := entities - with_prefix):
        what = f"some tags, like '{min(with_prefix)}', begin with B- or I-, and others, like '{min(plain)}', do not."
        return [Problem("data", what, f"Write all of them in IOB2 (B-, I-, {OUTSIDE}), or none with a prefix.")]
    wrong = {prefix: sum(tags.misplaced[prefix] for tags in splits) for prefix in "BI"}
    if not with_prefix or not all(wrong.values()):
        return []
    # Rows of neither scheme are compared with the one that more rows follow.
    prefix = min(wrong, key=lambda name: (wrong[name], name != "I"))
    problems = []
    for row, n in [found for tags in splits for found in tags.first[prefix]][:MAX_SHOWN]:
        tags, words = tags_of(row), row.prompt.split(SPACE)
        before = f"follows '{tags[n - 1]}'" if n else "is the first"
        other = ("B" if prefix == "I" else "I") + tags[n][1:]
        rule = f"in {'IOB2' if prefix == 'I' else 'IOB1'} it must be '{other}'"
        what = f"the tag of its word {n + 1} ('{words[n]}'), '{tags[n]}', {before}: {rule}."
        problems.append(Problem(row.place, what, "Correct it; all rows must be in IOB2, or all in IOB1."))
    if more := wrong[prefix] - len(problems):
        problems.append(Problem("data", f"{more} more rows have such a tag."))
    return problems


def _misplaced(tags: Sequence[str], prefix: str) -> int | None:
    """Return the index of the first tag whose prefix is wrong; None if there is none.

    In IOB2, ``I`` only continues an entity of its type. In IOB1, ``B`` only follows an entity of its type.

    Args:
        tags: the tags of a row.
        prefix: the prefix to check: ``I`` for IOB2, ``B`` for IOB1.
    """
    before = ""
    for index, tag in enumerate(tags):
        if tag.startswith(f"{prefix}-") and before[1:] != tag[1:]:
            return index
        before = tag
    return None


def scheme_of(rows: Rows) -> str:
    """Return which rules the tags follow; see :func:`prefix_problems`."""
    splits = _splits(rows)
    if not any(PREFIXED.fullmatch(name) for tags in splits for name in tags.names):
        return "without prefixes"
    return "IOB1" if any(tags.misplaced["I"] for tags in splits) else "IOB2"


def _splits(rows: Rows) -> list[Tags]:
    return [train_tags(rows.train), tags_in(rows.validation), tags_in(rows.test)]
