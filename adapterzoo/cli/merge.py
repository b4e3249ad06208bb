"""``adapterzoo merge``: merge trained adapters into their base model."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.terminal import safe, stderr, stdout, stdout_to_stderr


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-m", "--method", "methods", required=True, multiple=True, help="Label or method (repeatable).")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the adapters [the first].")
@click.option(
    "--to",
    required=True,
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Folder to write; with several methods, the folder for their folders.",
)
@click.option("--measure/--no-measure", default=True, help="Measure the merged models on the test rows of the run.")
@trust_option
def merge(
    folder: Path, methods: tuple[str, ...], seed: int | None, to: Path, measure: bool, trust_remote_code: bool
) -> None:
    """Merge adapters in DIR into their base model.

    Each becomes a model folder that transformers loads. Then it is measured on the test rows of the run, and compared
    with its adapter, answer by answer.
    """
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.adapters.merging import Merger, check_mergeable
    from adapterzoo.report import changes as table
    from adapterzoo.running.progress import reporter

    adapters = [find_adapter(folder, method, seed, trust_remote_code) for method in dict.fromkeys(methods)]
    places = [to if len(adapters) == 1 else to / adapter.result.label for adapter in adapters]
    for adapter, place in zip(adapters, places, strict=True):
        check_mergeable(adapter, place)
    from adapterzoo.machine.quiet import quiet_libraries

    merger, changes = Merger(reporter().say, measure=measure), {}
    for adapter, place in zip(adapters, places, strict=True):
        with stdout_to_stderr(), quiet_libraries():
            changes[adapter.result.label] = merger.merge(adapter, place)
        stderr().print(safe(f"{place} written."), soft_wrap=True)
    if any(changes.values()):
        table.render(changes, "merged", stdout())
