"""The plan of a run: its cells, in the order that loads each base once. Data alone, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.machine.environment import version_of
from adapterzoo.methods.contract import why_not_trainable
from adapterzoo.methods.registry import Registry
from adapterzoo.recipe.reading import complete_entry
from adapterzoo.recipe.schema import MethodEntry, Range, Recipe
from adapterzoo.recipe.tune import trials

BASE_LABEL = "base"


@dataclass(frozen=True)
class Cell:
    """One row's worth of work with one seed. Data alone describes it."""

    label: str
    method: str | None
    """None for the untouched base, which is only measured"""
    quantization: str
    """of the base model that it needs"""
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    plugin: str | None = None
    """the package that brings the method, with its version"""
    shots: int = 0
    """examples shown in the prompt"""
    budget: int | None = None
    """trained parameters that its options shall come to"""
    ranges: dict[str, Range] = field(default_factory=dict)
    """what is tried first, on the validation rows, by option"""
    tuned: tuple[str, ...] = ()
    """the options that are tuned of any method"""
    trials: int = 0
    """with how many settings"""


def plan(recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], zoo: Registry) -> list[Cell]:
    """All cells: the untouched base first, then those on the recipe's own base, then those on others.

    Args:
        methods: only these, by label or name; any other method of the zoo joins by its defaults. Empty: all.
        seeds: in place of the recipe's. Empty: the recipe's.

    Raises:
        UserError: a method that is not there, or cannot train on its base.
    """
    own = recipe.model.quantization
    cells = []
    if recipe.evaluate.base:
        cells.append(Cell(BASE_LABEL, None, own))
        if shots := recipe.evaluate.shots:
            cells.append(Cell(f"{BASE_LABEL}-{shots}-shot", None, own, shots=shots))
    entries = _select(recipe, methods, zoo)
    for seed in dict.fromkeys(seeds or recipe.seeds):
        for entry in entries:
            base = zoo[entry.name].requires_quantization or own
            budget = recipe.budget.trainable_params if recipe.budget else None
            rate = float(entry.learning_rate)
            ranges = {
                name: one for name, one in recipe.tune.items() if name == "learning_rate" or name in entry.options
            }
            cells.append(
                Cell(
                    entry.label,
                    entry.name,
                    base,
                    seed,
                    entry.options,
                    rate,
                    version_of(zoo.package(entry.name)),
                    budget=budget,
                    ranges=ranges,
                    tuned=tuple(sorted(recipe.tune)),
                    trials=trials(recipe.tune) if ranges else 0,
                )
            )
    return sorted(cells, key=lambda cell: (cell.quantization != own, cell.quantization))


def _select(recipe: Recipe, names: Sequence[str], zoo: Registry) -> list[MethodEntry]:
    chosen: list[MethodEntry] = []
    problems: list[Problem] = []
    for name in names:
        entries = [entry for entry in recipe.methods if entry.label == name]
        entries = entries or [entry for entry in recipe.methods if entry.name == name]
        if not entries and name in zoo:
            entry = MethodEntry(name=name, label=name)
            complete_entry(entry, zoo[name], recipe.train.learning_rate)
            entries = [entry]
            if found := why_not_trainable(zoo[name], recipe.model.quantization):
                problems.append(Problem(f"--method {name}", *found))
        if not entries:
            known = {*zoo, *(entry.label for entry in recipe.methods)}
            problems.append(Problem(f"--method {name}", "unknown method.", did_you_mean(name, known)))
        chosen += [entry for entry in entries if entry not in chosen]
    if problems:
        raise UserError(*problems)
    return chosen or recipe.methods
