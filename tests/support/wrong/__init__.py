"""Adapter methods that are wrong by a line or two, as careless or dishonest authors write them, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from adapterzoo import Method


@dataclass(frozen=True)
class Wrong:
    """A wrong method."""

    method: type[Method[Any]]
    why: str
    """what is wrong, in one plain sentence"""


NAMES = (
    "another_process",
    "merging",
    "playing_more",
    "hidden_size",
    "left_behind",
    "unseen_sizes",
    "careless",
)
# The modules import Wrong from here, so they are imported after it.
KINDS: dict[str, tuple[Wrong, ...]] = {name: import_module(f"{__name__}.{name}").WRONG for name in NAMES}
