"""A finding: one key of a recipe that was guessed from the data, and how sure the guess is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sureness = Literal["certain", "likely", "a guess", "not known"]


@dataclass(frozen=True)
class Finding:
    """One guess: the value of a key of the recipe, and how sure it is."""

    key: str
    """full key, like ``data.columns.answer``"""
    value: str | None
    """guessed value; None if it is not known"""
    sureness: Sureness
    reason: str
    choices: tuple[str, ...] = ()
    """possible values, if the value is not known"""

    @property
    def name(self) -> str:
        """Return the last part of the key."""
        return self.key.rpartition(".")[2]
