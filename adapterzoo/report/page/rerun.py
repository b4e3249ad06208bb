"""The recipe of a run as it was resolved, and the commands that run it again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adapterzoo.comparison.comparison import Block
from adapterzoo.files import read_text
from adapterzoo.results.result import Result
from adapterzoo.results.store import RECIPE, yaml_text
from adapterzoo.terminal import clean, clean_lines

MAX_BYTES = 2**20
# Packages that have no say in the results, or are this one.
NOT_INSTALLED = frozenset({"adapterzoo"})


class Rerun(NamedTuple):
    """The recipe of a folder, and the commands that run it again."""

    folder: str
    recipe: str
    complete: bool
    """whether the recipe has its methods and seeds; the results alone hold it without them"""
    commands: str


def reruns(block: Block, public: Callable[[str], str] = str) -> list[Rerun]:
    """Return the recipe and the commands of each output folder of a block.

    Args:
        block: the block.
        public: returns a text as it may be shown, without local paths if the page is published.
    """
    folders: dict[Path, list[Result]] = {}
    for evidence in block.evidence:
        for folder, result in zip(evidence.folders, evidence.results, strict=True):
            folders.setdefault(folder.parents[1], []).append(result)
    found = [_rerun(folder, results) for folder, results in folders.items()]
    return [
        Rerun(public(rerun.folder), public(rerun.recipe), rerun.complete, public(rerun.commands)) for rerun in found
    ]


def _rerun(folder: Path, results: Sequence[Result]) -> Rerun:
    try:
        recipe, complete = read_text(folder / RECIPE, MAX_BYTES), True
    except (OSError, ValueError):
        recipe, complete = yaml_text(results[0].recipe) if results[0].recipe else "", False
    commands = "\n".join(_commands(folder, results, complete=complete))
    return Rerun(clean(folder), clean_lines(recipe).rstrip("\n"), complete, clean_lines(commands))


def _commands(folder: Path, results: Sequence[Result], *, complete: bool) -> list[str]:
    """Return the commands that install the versions of the packages, and make the results again."""
    lines = [f"pip install {' '.join(pinned)}"] if (pinned := _pinned(results[0].environment)) else []
    again = shlex.quote(f"{folder}-again")
    trained_in = next((result.trained_in for result in results if result.trained_in), None)
    if trained_in is not None:
        data = f"--data {shlex.quote(_source(folder))}"
        lines.append(f"adapterzoo evaluate {shlex.quote(trained_in)} {data} --out {again}")
    elif complete:
        lines.append(f"adapterzoo run {shlex.quote(str(folder / RECIPE))} --out {again}{_seeds(results)}")
    else:
        lines.append("# The folder holds no recipe.yaml: add the methods and seeds to the recipe above.")
        lines.append(f"adapterzoo run recipe.yaml --out {again}{_seeds(results)}")
    return [*lines, f"adapterzoo compare {again} --format html > page.html"]


def _pinned(environment: Mapping[str, Any]) -> list[str]:
    packages = environment.get("packages") or {}
    return [
        shlex.quote(f"{name}=={version}") for name, version in packages.items() if version and name not in NOT_INSTALLED
    ]


def _seeds(results: Sequence[Result]) -> str:
    return "".join(f" --seed {seed}" for seed in sorted({result.seed for result in results if result.method}))


def _source(folder: Path) -> str:
    """Return the data that adapters were measured on in a folder; a placeholder if that is not known."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        source = YAML(typ="safe").load(read_text(folder / RECIPE, MAX_BYTES))["data"]["source"]
        return str(source[0] if isinstance(source, list) else source)
    except (OSError, ValueError, KeyError, TypeError, IndexError, YAMLError):
        return "SOURCE"
