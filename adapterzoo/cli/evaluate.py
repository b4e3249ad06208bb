"""``adapterzoo evaluate``: measure trained adapters on other data."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from adapterzoo.cli.arguments import method_option, seed_option, trust_option
from adapterzoo.cli.progress import shown_progress
from adapterzoo.terminal import stdout


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@method_option
@seed_option
@click.option(
    "--data",
    "source",
    required=True,
    metavar="SOURCE",
    help="Rows to measure on: a file, the folder of a saved dataset, or a hub id.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of data or evaluate, like data.columns={question: q} (repeatable).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results [beside DIR, <DIR>-on-<SOURCE>].",
)
@click.option("--jobs", type=click.IntRange(min=0), help="Adapters that are measured at the same time [as in the run].")
@trust_option
def evaluate(
    folder: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    source: str,
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
    trust_remote_code: bool,
) -> None:
    """Measure the adapters in DIR on other data, and print the comparison.

    All rows of SOURCE are test rows. They are read, asked and scored as in the run, and the untouched base model is
    measured on them too, if it was in the run.
    """
    from adapterzoo.adapters import evaluating
    from adapterzoo.comparison import compare
    from adapterzoo.report import table

    with shown_progress() as progress:
        folder, results = evaluating.evaluate(
            folder, source, methods, seeds, overrides,
            out=out, jobs=jobs, trust_remote_code=trust_remote_code, reporter=progress,
        )  # fmt: skip
    table.render(compare(folder), stdout())
    if not all(result.ok for result in results):
        sys.exit(1)
