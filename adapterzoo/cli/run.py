"""``adapterzoo run``: train and measure every cell, and print the comparison."""

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
    "--jobs",
    type=click.IntRange(min=0),
    help="Cells that run at the same time [as in the recipe]; 0 = one by one in this process.",
)
def run(
    recipe: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
) -> None:
    """Train and evaluate every cell of RECIPE.

    Then print the comparison of all methods. Cells that already have a result are not trained again, so the same
    command continues a stopped run.
    """
    from adapterzoo.api import output_folder
    from adapterzoo.recipe.reading import load_recipe
    from adapterzoo.running.progress import reporter

    checked = load_recipe(recipe, overrides if jobs is None else (*overrides, f"jobs={jobs}"))
    # Make the path absolute now, because a method may change the working directory.
    folder = (out or output_folder(checked.name, overrides)).absolute()
    progress = reporter()
    from adapterzoo.comparison import compare
    from adapterzoo.report import table
    from adapterzoo.running import runner

    with stdout_to_stderr():
        try:
            results = runner.run(checked, folder, methods, seeds, progress)
        finally:
            # End the display before stdout is restored, because it puts back the redirected stdout that it found.
            progress.end()
    table.render(compare(folder), stdout())
    if not all(result.ok for result in results):
        sys.exit(1)
