"""The plan of a run: its cells, in the order that loads each base once. Data alone, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.recipe import MethodEntry, Recipe, complete_entry
from adapterzoo.registry import Registry


@dataclass(frozen=True)
class Cell:
    """One training: a method under its label, with a seed, on a base. Data alone describes it."""

    label: str
    method: str
    options: dict[str, Any]
    learning_rate: float
    base: str
    seed: int


def select(recipe: Recipe, names: Sequence[str], zoo: Registry) -> list[MethodEntry]:
    """The entries that ``--method`` asks for: by label, by name, or any other method of the zoo by its defaults.

    Raises:
        UserError: a name that is none of these.
    """
    if not names:
        return recipe.methods
    chosen: list[MethodEntry] = []
    for name in names:
        entries = [entry for entry in recipe.methods if entry.label == name] or [
            entry for entry in recipe.methods if entry.name == name
        ]
        if not entries:
            if name not in zoo:
                labels = [entry.label for entry in recipe.methods]
                raise UserError.at(f"--method {name}", "unknown method.", did_you_mean(name, {*zoo, *labels}))
            entry = MethodEntry(name=name, label=name)
            complete_entry(entry, zoo[name], recipe.train.learning_rate)
            entries = [entry]
        chosen += [entry for entry in entries if entry not in chosen]
    return chosen


def plan(recipe: Recipe, entries: Sequence[MethodEntry], seeds: Sequence[int], zoo: Registry) -> list[Cell]:
    """All cells, those of the recipe's own base first, seeds together last: a comparison grows row by row."""
    own = recipe.model.quantization
    cells = [
        Cell(
            label=entry.label,
            method=entry.name,
            options=entry.options,
            learning_rate=float(entry.learning_rate),
            base=zoo[entry.name].base_for(own),
            seed=seed,
        )
        for seed in seeds
        for entry in entries
    ]
    return sorted(cells, key=lambda cell: (cell.base != own, cell.base))
