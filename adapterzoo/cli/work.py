"""``adapterzoo work``: be one of the workers that share the cells of a planned run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.cli.progress import shown_progress
from adapterzoo.machine import ranks
from adapterzoo.results.claim_files import PATIENCE_SECONDS
from adapterzoo.terminal import counted, safe, stdout


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Say what is different on this machine, like data.source=/data/rows.csv (repeatable).",
)
@click.option("--jobs", type=click.IntRange(min=0), help="Cells that this worker does at the same time [as planned].")
@click.option("--no-wait", is_flag=True, help="End when no cell is free; others do the cells of dead workers.")
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=PATIENCE_SECONDS,
    show_default=True,
    help="Seconds without a sign of life after which a worker counts as dead; the highest of both workers counts.",
)
@trust_option
def work(
    folder: Path,
    overrides: tuple[str, ...],
    jobs: int | None,
    no_wait: bool,
    patience: float,
    trust_remote_code: bool,
) -> None:
    """Do the cells of a planned run in DIR that no other worker has claimed, until none is left.

    Start as many workers as you like, on any machine that sees DIR, the data and the model. Make the plan with
    adapterzoo run RECIPE --out DIR --plan-only.
    """
    from adapterzoo.results.note import planned
    from adapterzoo.running import sharing

    if ranks.launched() > 1:
        raise click.UsageError(
            "start it without a launcher: with train.devices it starts the processes of a cell itself."
        )
    # Make the path absolute now, because a method may change the working directory.
    folder = folder.absolute()
    with shown_progress() as progress:
        results = sharing.work(
            folder,
            overrides,
            jobs=jobs,
            waits=not no_wait,
            patience=patience,
            trust_remote_code=trust_remote_code,
            reporter=progress,
        )
    failed = [result for result in results if not result.ok]
    ended = f"{len(results)} of {counted(len(planned(folder)), 'cell')} done"
    ended += f", {len(failed)} failed" if failed else ""
    stdout().print(safe(f"{ended}. See them: adapterzoo compare {folder}"), soft_wrap=True)
    if failed:
        sys.exit(1)
