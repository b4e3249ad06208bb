"""``adapterzoo run``: trains and measures every cell, and prints the comparison."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from adapterzoo.cli.arguments import out_option, recipe_options
from adapterzoo.terminal import stdout, stdout_to_stderr


@click.command()
@recipe_options
@out_option
@click.option(
    "--jobs", type=click.IntRange(min=0), help="Cells at a time [the recipe's]; 0: none in a process of its own."
)
def run(
    recipe: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
) -> None:
    """Train and evaluate every cell of RECIPE, and print the comparison.

    Cells that have a result are not trained again: a run that was stopped goes on.
    """
    from adapterzoo.api import output_folder
    from adapterzoo.recipe.reading import load_recipe
    from adapterzoo.running.progress import reporter

    checked = load_recipe(recipe, overrides if jobs is None else (*overrides, f"jobs={jobs}"))
    # Once, before any method is tried: it may change the working directory.
    folder = (out or output_folder(checked.name, overrides)).absolute()
    progress = reporter()
    from adapterzoo.comparison import compare
    from adapterzoo.report import terminal
    from adapterzoo.running import runner

    with stdout_to_stderr():
        try:
            results = runner.run(checked, folder, methods, seeds, progress)
        finally:
            progress.end()  # before stdout is what it was: the live display holds on to it
    terminal.render(compare(folder), stdout())
    if not all(result.ok for result in results):
        sys.exit(1)
