"""The same as the command line, for notebooks and scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo.comparison import Comparison, compare
from adapterzoo.reading import load_recipe
from adapterzoo.recipe import Recipe

if TYPE_CHECKING:
    from adapterzoo.progress import Reporter


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Train and measure every cell of a recipe that has no result yet, and compare all there are.

    Args:
        recipe: a recipe, or the path of one.
        out: folder for the results; see :func:`output_folder` for where they go without it.
        methods: only these, by label or name.
        seeds: in place of the recipe's.
        overrides: assignments like ``train.steps=10``; only with a path.
        jobs: cells at a time, in place of the recipe's; 0: one after the other in this process.
        reporter: is told of the progress; by default nobody is.

    Returns:
        The comparison. A cell that failed is a row of it, with its reason.

    Raises:
        UserError: the recipe, the data, the model or the folder is at fault.
    """
    from adapterzoo import runner

    checked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if jobs is not None:
        checked = checked.model_copy(update={"jobs": jobs})
    # Once, before any method is tried: it may change the working directory.
    folder = Path(out if out is not None else output_folder(checked.name, overrides)).absolute()
    runner.run(checked, folder, methods, seeds, reporter)
    return compare(folder)


def output_folder(name: str, overrides: Sequence[str] = ()) -> Path:
    """Where results go by default: ``runs/<name>``, and a folder of its own for each set of overrides."""
    if not overrides:
        return Path("runs") / name
    return Path("runs") / f"{name}-{hashlib.sha256(chr(0).join(overrides).encode()).hexdigest()[:8]}"
