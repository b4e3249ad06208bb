"""Read YAML 1.2 texts as plain data with the line of each key, and refuse aliases that stand for too many values."""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from adapterzoo.machine.limits import TooLongError, stopped_after

Location = tuple[str | int, ...]
# A few aliases of aliases can stand for billions of values. Short texts count as one value, longer ones as more.
MAX_REPEATED_VALUES = 10_000
CHARACTERS_PER_VALUE = 100
MAX_SECONDS = 30
# The parser also raises Python's own errors, for example for an impossible date or a broken !!tag.
PARSE_ERRORS = (
    YAMLError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError
)  # fmt: skip


class TooMuchError(MarkedYAMLError):
    """The error for a text that takes too long to read, or whose aliases stand for too many values."""


class _Constructor(RoundTripConstructor):
    """Makes values of a parsed YAML file, after checking that its aliases do not repeat too much."""

    def construct_document(self, node: Node) -> Any:
        """See :class:`RoundTripConstructor`.

        Raises:
            TooMuchError: aliases repeat more than MAX_REPEATED_VALUES values.
        """
        _refuse_repeats(node)
        return super().construct_document(node)


def load(text: str) -> Any:
    """Return the content of a YAML text in ruamel's types.

    Raises:
        TooMuchError: it takes more than MAX_SECONDS, or its aliases repeat more than MAX_REPEATED_VALUES values.
        Exception: one of PARSE_ERRORS, if it is not YAML.
    """
    yaml = YAML(typ="rt")
    yaml.Constructor = _Constructor
    try:
        with stopped_after(MAX_SECONDS):
            return yaml.load(text)
    except TooLongError:
        raise TooMuchError(problem=f"takes more than {MAX_SECONDS} seconds to read, and no recipe does") from None


def _refuse_repeats(root: Node) -> None:
    """Raise TooMuchError if the aliases below a node repeat too many values, or a node contains itself."""
    sizes: dict[int, int] = {}  # id of a node -> number of its values, with all aliases written out; 0 until known
    counted: list[Node] = []
    distinct = 0

    def size(node: Node) -> int:
        nonlocal distinct
        if sizes.get(id(node)) == 0:
            raise TooMuchError(problem="holds an alias of itself", problem_mark=node.start_mark)
        if id(node) not in sizes:
            sizes[id(node)] = 0
            own = 1 + (len(node.value) // CHARACTERS_PER_VALUE if isinstance(node, ScalarNode) else 0)
            distinct += own
            sizes[id(node)] = own + sum(size(child) for child in _children(node))
            counted.append(node)
        return sizes[id(node)]

    size(root)
    for node in counted:  # a node comes after those inside it, so the error names the innermost one
        if sizes[id(node)] > distinct + MAX_REPEATED_VALUES:
            what = f"its aliases repeat more than {MAX_REPEATED_VALUES:,} values"
            raise TooMuchError(problem=what, problem_mark=node.start_mark)


def _children(node: Node) -> list[Node]:
    """Return the nodes directly inside a node: the items of a list, or the keys and values of a mapping."""
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return [] if isinstance(node, ScalarNode) else list(node.value)


def duplicate_key(error: DuplicateKeyError) -> str:
    """Return the key that ruamel's error names."""
    match = re.match('found duplicate (?:merge )?key "(.*?)"(?: with value|$)', error.problem, re.DOTALL)
    return match[1] if match else ""


def plain(value: Any, location: Location, lines: dict[Location, int]) -> Any:
    """Return a value in built-in types, not ruamel's; add the line number of each key and item to ``lines``."""
    if isinstance(value, CommentedMap):
        for key in value:
            if key in (value.lc.data or ()):  # keys from a merge (<<) have no line here
                lines[(*location, str(key))] = value.lc.key(key)[0] + 1
        return {str(key): plain(item, (*location, str(key)), lines) for key, item in value.items()}
    if isinstance(value, CommentedSeq):
        for index in range(len(value)):
            if value.lc.data and index in value.lc.data:
                lines[(*location, index)] = value.lc.item(index)[0] + 1
        return [plain(item, (*location, index), lines) for index, item in enumerate(value)]
    for builtin in (bool, int, float, str):
        if isinstance(value, builtin):
            if isinstance(value, str):
                value.encode()  # raises ValueError for half a surrogate pair, which is not text
            return builtin(value)
    if value is None:
        return None
    return str(getattr(value, "value", value))
