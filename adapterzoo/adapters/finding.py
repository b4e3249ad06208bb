"""Find the trained adapters of an output folder, and check their files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from adapterzoo.digests import ending
from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.files import special_file
from adapterzoo.methods.registry import registry
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.recipe import document
from adapterzoo.recipe.reading import require_trust
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.intact import changed_files
from adapterzoo.results.reading import StoredResults, read_results
from adapterzoo.results.result import Result
from adapterzoo.results.store import ADAPTER, RECIPE

Say = Callable[[str], None]
TRAIN_AGAIN = "Run the recipe again: it trains damaged adapters again."


@dataclass(frozen=True)
class Adapter:
    """One finished cell of an output folder."""

    folder: Path
    """output folder of the run"""
    recipe: Recipe
    """resolved recipe of the run"""
    result: Result
    """result of the cell"""

    @property
    def path(self) -> Path:
        """Return the folder with the adapter's weights and tokenizer."""
        return self.folder / self.result.label / f"seed-{self.result.seed}" / ADAPTER


def find_adapter(folder: Path, method: str, seed: int | None = None, trust_remote_code: bool = False) -> Adapter:
    """Return the adapter with this label or of this method; without a seed, the first one in the results.

    Args:
        folder: output folder of a run, which may come from a stranger.
        method: label or name of the method.
        seed: seed of the adapter.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.

    Raises:
        UserError: the folder has no such adapter, or several, or its training failed, or its method is not installed,
            or the recipe is damaged, or asks to run a model's own code without permission.
    """
    matching = _matching(read_results(folder), folder, method)
    if len({result.label for result in matching}) > 1:
        labels = ", ".join(sorted({result.label for result in matching}))
        raise UserError.at(f"--method {method}", "there are several such adapters.", f"Give one label: {labels}.")
    chosen = next((result for result in matching if seed is None or result.seed == seed), None)
    if chosen is None:
        seeds = ", ".join(str(result.seed) for result in matching)
        raise UserError.at(f"--seed {seed}", f"'{method}' was not trained with this seed.", f"Choose from: {seeds}.")
    if (problem := _unusable(chosen, f"--method {method}")) is not None:
        raise UserError(problem)
    return Adapter(folder, stored_recipe(folder, trust_remote_code), chosen)


def find_adapters(
    folder: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    trust_remote_code: bool = False,
    say: Say = lambda message: None,
) -> list[Adapter]:
    """Return all adapters of an output folder whose training did not fail.

    Args:
        folder: output folder of a run, which may come from a stranger.
        methods: labels or names of methods; if empty, all.
        seeds: seeds of the adapters; if empty, all.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.
        say: is called with a message about each cell that has no adapter.

    Raises:
        UserError: there are no such adapters, a method is not installed, or the recipe is damaged, or asks to run a
            model's own code without permission.
    """
    stored = read_results(folder)
    if methods:
        results = [result for method in dict.fromkeys(methods) for result in _matching(stored, folder, method)]
        results = list({(result.label, result.seed): result for result in results}.values())
    else:
        results = [result for _, result in stored.cells if result.method is not None]
        for problem in stored.damaged.values():
            say(f"{problem.where}: {problem.what} It is left out.")
    if seeds and (missing := sorted(set(seeds) - {result.seed for result in results})):
        known = ", ".join(map(str, sorted({result.seed for result in results})))
        raise UserError.at(f"--seed {missing[0]}", "nothing was trained with this seed.", f"Choose from: {known}.")
    results = [result for result in results if not seeds or result.seed in seeds]
    for result in results:
        if not result.ok:
            say(f"{result.label}, seed {result.seed}: its training failed, so it is left out")
    finished = [result for result in results if result.ok]
    if not finished:
        raise UserError.at(str(folder), "holds no trained adapter.", "Run the recipe again.")
    if problems := list(filter(None, (_unusable(result, result.label) for result in finished))):
        raise UserError(*dict.fromkeys(problems))
    recipe = stored_recipe(folder, trust_remote_code)
    return [Adapter(folder, recipe, result) for result in finished]


def first_of_each_label(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Return the adapter of the first seed of each label."""
    return list({adapter.result.label: adapter for adapter in reversed(adapters)}.values())[::-1]


def folder_on(folder: Path, source: str, settings: Sequence[str]) -> Path:
    """Return the default folder for what adapters score on something else: beside that of their run.

    Args:
        folder: output folder of the run.
        source: name of what they are measured on.
        settings: what the user changed; other settings have another folder.
    """
    whole, name = folder.absolute(), plain_name(source)
    return whole.parent / f"{whole.name}-on-{name}{ending(settings)}"


def plain_name(source: str) -> str:
    """Return a name as a part of a folder's name."""
    return re.sub(r"[^\w.-]+", "-", source).strip("-.") or "data"


def _matching(stored: StoredResults, folder: Path, method: str) -> list[Result]:
    """Return the results with a label, or else of a method.

    Raises:
        UserError: there are none.
    """
    results = [result for _, result in stored.cells if result.method is not None]
    matching = [result for result in results if result.label == method] or [r for r in results if r.method == method]
    damaged = [problem for cell, problem in stored.damaged.items() if cell.parent.name == method]
    if damaged and not matching:
        raise UserError(*damaged)
    if not matching:
        known = sorted({result.label for result in results})
        raise UserError.at(f"--method {method}", f"{folder} has no such adapter.", did_you_mean(method, known))
    return matching


def _unusable(result: Result, where: str) -> Problem | None:
    """Return why the adapter of a result cannot be used here; None if it can."""
    if not result.ok:
        return Problem(where, f"its training failed: {result.error}", "Run the recipe again.")
    if result.trained_in is not None:
        what = f"was measured here, and trained in {result.trained_in}."
        return Problem(where, what, "Give that folder.")
    if (name := result.method or "") not in registry():
        hint = f"The run had it from {result.plugin}." if result.plugin else registry().hint(name)
        return Problem(where, f"its method '{name}' is not installed.", hint)
    known, name = quantizations(), result.quantization
    if name not in known:
        what = f"was trained on the quantization '{name}', which there is not."
        return Problem(where, what, f"There are: {', '.join(known)}.")
    if reason := known[name].why_not_here():
        return Problem(where, f"was trained on the quantization {name}, which {reason.what}", reason.hint)
    return None


def stored_recipe(folder: Path, trust_remote_code: bool = False) -> Recipe:
    """Return the resolved recipe that a run keeps in its output folder.

    Raises:
        UserError: it is damaged, or asks to run a model's own code without permission.
    """
    path = folder / RECIPE
    try:
        recipe = Recipe.model_validate(document.read(path).data)
    except ValidationError:
        raise UserError.at(str(path), "is not what the run wrote.", "Run the recipe again.") from None
    require_trust(recipe, path, trust_remote_code)
    return recipe


def check_files(adapter: Adapter, say: Say) -> None:
    """Raise UserError if a file of the adapter is not what the run wrote."""
    if not adapter.result.adapter_files:
        say("an older adapterzoo wrote this result without digests of the adapter's files, so they are not checked")
    if not adapter.path.is_dir():
        raise UserError.at(str(adapter.path), "does not exist any more.", TRAIN_AGAIN)
    if special := special_file(adapter.path):
        raise UserError.at(str(special), "is not an ordinary file.", TRAIN_AGAIN)
    if changed := changed_files(adapter.path.parent, adapter.result):
        where = str(adapter.path.parent / changed[0])
        more = f", nor are {len(changed) - 1} more files" if len(changed) > 1 else ""
        raise UserError.at(where, f"is not what the run wrote{more}.", TRAIN_AGAIN)
