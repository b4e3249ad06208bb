"""The same as the command line, for notebooks and scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo import comparison
from adapterzoo.comparison import Comparison
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.recipe.schema import Recipe

if TYPE_CHECKING:
    from adapterzoo.running.progress import Reporter


class PrintedComparison(Comparison):
    """A comparison that shows itself as a table, in a terminal and in a notebook."""

    def __str__(self) -> str:
        from adapterzoo.report.terminal import plain

        return plain(self)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html())


def compare(
    *folders: str | Path, sort: str | None = None, against: str | None = None, price: float | None = None
) -> PrintedComparison:
    """Compare everything that is on disk in one or several output folders.

    Args:
        folders: those of runs. What cannot be compared with the first one's rows stands in blocks of its own.
        sort: a column to order by, best first; by default the first metric there is.
        against: the label of a row that all others are compared with, in place of the best.
        price: of an hour of the machine, in whatever currency.

    Raises:
        UserError: a folder holds no results, results cannot be read, or there is no such column or label.
    """
    found = comparison.compare(*folders, sort=sort, against=against, price=price)
    return PrintedComparison(found.blocks, found.against, found.unfinished, found.times)


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    reporter: Reporter | None = None,
) -> PrintedComparison:
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
    from adapterzoo.running import runner

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
