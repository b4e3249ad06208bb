"""``adapterzoo run``: train and measure every cell, and print the comparison."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapterzoo.cli.arguments import out_option, recipe_options
from adapterzoo.cli.progress import shown_progress
from adapterzoo.machine import ranks
from adapterzoo.terminal import safe, stdout, stdout_to_stderr

if TYPE_CHECKING:
    from adapterzoo.running.planned import PlannedCell


@click.command()
@recipe_options
@out_option
@click.option(
    "--jobs",
    type=click.IntRange(min=0),
    help="Cells that run at the same time [as in the recipe]; 0 = one by one in this process.",
)
@click.option("--ray", metavar="ADDRESS", help="Let the nodes of this Ray cluster do the cells: HOST:PORT, or auto.")
@click.option(
    "--gpus",
    type=float,
    help="With --ray: share of a GPU for each cell [1 if the cluster has any]; with 0.5, two cells share one.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done with each cell, and why.")
@click.option("--plan-only", is_flag=True, help="Only write the plan into the folder, for workers: adapterzoo work.")
def run(
    recipe: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
    ray: str | None,
    gpus: float | None,
    dry_run: bool,
    plan_only: bool,
) -> None:
    """Train and evaluate every cell of RECIPE.

    Then print the comparison of all methods. Cells that already have a result are not trained again, so the same
    command continues a stopped run.
    """
    from adapterzoo.api.comparing import output_folder
    from adapterzoo.recipe.reading import load_recipe

    checked = load_recipe(recipe, overrides if jobs is None else (*overrides, f"jobs={jobs}"))
    # Make the path absolute now, because a method may change the working directory.
    folder = (out or output_folder(checked.name, overrides)).absolute()
    from adapterzoo.comparison import compare
    from adapterzoo.report import table
    from adapterzoo.running import runner
    from adapterzoo.running.on_ray.cluster import RayCluster

    if ranks.launched() > 1 and (ray or dry_run or plan_only):
        raise click.UsageError("--ray, --dry-run and --plan-only are for one process: start it without a launcher.")
    if gpus is not None and ray is None:
        raise click.UsageError("--gpus is for --ray.")
    if ray is not None and plan_only:
        raise click.UsageError("--plan-only is for workers that you start yourself: leave --ray out.")
    if ray is not None:
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # keep the logs of nodes out of the progress display
    if dry_run:
        with stdout_to_stderr():
            cells = runner.dry_run(checked, folder, methods, seeds)
        _show_plan(cells, "nothing was done")
        return
    if plan_only:
        from adapterzoo.running import sharing

        with shown_progress() as progress:
            cells = sharing.plan(checked, folder, methods, seeds, progress)
        _show_plan(cells, f"planned. Start as many workers as you like: adapterzoo work {shlex.quote(str(folder))}")
        return
    if ranks.follows():
        from adapterzoo.running.launched import follow_run

        with stdout_to_stderr():
            follow_run(checked, folder, methods, seeds)
        return
    with shown_progress() as progress:
        results = runner.run(checked, folder, methods, seeds, progress, RayCluster(ray, gpus) if ray else None)
    table.render(compare(folder), stdout())
    if not all(result.ok for result in results):
        sys.exit(1)


def _show_plan(cells: Sequence[PlannedCell], outcome: str) -> None:
    """Print what a run would do with each cell, and what was done with the plan."""
    from rich.table import Table

    console = stdout()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("cell", "seed", "would", "because"):
        table.add_column(title, no_wrap=title != "because")
    for cell in cells:
        table.add_row(safe(cell.label, "bold"), str(cell.seed), cell.action, safe(cell.why))
    console.print(table)
    counts = ", ".join(f"{action}: {count}" for action, count in Counter(cell.action for cell in cells).items())
    console.print(safe(f"{counts}; {outcome}", "dim"), soft_wrap=True)
