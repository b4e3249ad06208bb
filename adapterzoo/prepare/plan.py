"""Plan a run: list its cells, which are plain data, in an order that loads each base model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.machine.environment import version_of
from adapterzoo.methods.registry import Registry
from adapterzoo.methods.trainable import why_not_trainable
from adapterzoo.recipe.reading import complete_entry
from adapterzoo.recipe.schema import MethodEntry, Range, Recipe
from adapterzoo.recipe.tune import trials
from adapterzoo.results.result import SETTINGS
from adapterzoo.tasks.contract import Task
from adapterzoo.tasks.registry import tasks

BASE_LABEL = "base"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The work of one row with one seed, described by plain data."""

    label: str
    quantization: str
    """quantization of the base model that the cell needs"""
    seed: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """Return label and seed, which no two cells of a run share."""
        return self.label, self.seed

    @property
    def settings(self) -> dict[str, Any]:
        """Return the fields that must not differ between results of one label; their names are ``Result``'s."""
        return {name: getattr(self, name, None) for name in SETTINGS} | {"options": {}}


@dataclass(frozen=True, kw_only=True)
class BaseCell(Cell):
    """A cell of the untouched base model, which is only measured."""

    shots: int = 0
    """number of examples shown in the prompt"""


@dataclass(frozen=True, kw_only=True)
class MethodCell(Cell):
    """A cell of a method, which is trained and measured."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float
    plugin: str | None = None
    """package of the method, with its version"""
    budget: int | None = None
    """number of parameters that the method should train"""
    ranges: dict[str, Range] = field(default_factory=dict)
    """option -> values that tuning tries on the validation rows"""
    tuned: tuple[str, ...] = ()
    """options that the recipe tunes, including those that this method does not have"""
    trials: int = 0
    """number of settings that tuning tries"""

    @property
    def settings(self) -> dict[str, Any]:
        """See :attr:`Cell.settings`."""
        return {name: getattr(self, name) for name in SETTINGS}


def plan(recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], zoo: Registry) -> list[Cell]:
    """Return the cells: first the untouched base model, then methods on the recipe's quantization, then on others.

    Args:
        recipe: the recipe.
        methods: labels or names of methods to run; if empty, all methods of the recipe. A method that is not in the
            recipe is run with its defaults.
        seeds: seeds to run; if empty, the recipe's.
        zoo: the installed methods.

    Raises:
        UserError: a method is unknown, or cannot train on the recipe's quantization.
    """
    own, task = recipe.model.quantization, tasks()[recipe.task.name]
    cells: list[Cell] = [*base_cells(recipe)]
    entries = _select(recipe, methods, zoo, task)
    for seed in dict.fromkeys(seeds or recipe.seeds):
        for entry in entries:
            ranges = {
                name: values for name, values in recipe.tune.items() if name == "learning_rate" or name in entry.options
            }
            cells.append(
                MethodCell(
                    label=entry.label,
                    method=entry.name,
                    quantization=zoo[entry.name].requires_quantization or own,
                    seed=seed,
                    options=entry.options,
                    learning_rate=float(entry.learning_rate),
                    plugin=version_of(zoo.package(entry.name)),
                    budget=recipe.budget.trainable_params
                    if recipe.budget and not zoo[entry.name].trains_head_only
                    else None,
                    ranges=ranges,
                    tuned=tuple(sorted(recipe.tune)),
                    trials=trials(recipe.tune) if ranges else 0,
                )
            )
    return sorted(cells, key=lambda cell: (cell.quantization != own, cell.quantization))


def base_cells(recipe: Recipe) -> list[BaseCell]:
    """Return the cells of the untouched base model; a task with a new head has none."""
    own, shots = recipe.model.quantization, recipe.evaluate.shots
    if not recipe.evaluate.base or tasks()[recipe.task.name].new_head:
        return []
    shown = [BaseCell(label=f"{BASE_LABEL}-{shots}-shot", quantization=own, shots=shots)] if shots else []
    return [BaseCell(label=BASE_LABEL, quantization=own), *shown]


def _select(recipe: Recipe, names: Sequence[str], zoo: Registry, task: Task[Any]) -> list[MethodEntry]:
    """Return the entries of the methods to run.

    Raises:
        UserError: a method is unknown, or cannot train this task on the recipe's quantization.
    """
    chosen: list[MethodEntry] = []
    problems: list[Problem] = []
    for name in names:
        entries = [entry for entry in recipe.methods if entry.label == name]
        entries = entries or [entry for entry in recipe.methods if entry.name == name]
        if not entries and name in zoo:
            entries = [_default_entry(name, recipe, zoo)]
            if reason := why_not_trainable(zoo, name, recipe.model.quantization, task.task_type):
                problems.append(Problem(f"--method {name}", *reason))
        if not entries:
            known = {*zoo, *(entry.label for entry in recipe.methods)}
            problems.append(Problem(f"--method {name}", "unknown method.", did_you_mean(name, known)))
        chosen += [entry for entry in entries if entry not in chosen]
    if problems:
        raise UserError(*problems)
    chosen = chosen or [*recipe.methods]
    # The row of the frozen model whose new head alone is trained stands where other tasks have the untouched base.
    if task.new_head and recipe.evaluate.base:
        named = {entry.name for entry in chosen}
        frozen = [name for name in zoo if zoo[name].trains_head_only and task.task_type in zoo[name].task_types]
        chosen += [_default_entry(name, recipe, zoo) for name in frozen if name not in named]
    return chosen


def _default_entry(name: str, recipe: Recipe, zoo: Registry) -> MethodEntry:
    """Return the entry of a method that the recipe does not name."""
    entry = MethodEntry(name=name, label=name)
    complete_entry(entry, zoo[name], recipe.train.learning_rate)
    return entry
