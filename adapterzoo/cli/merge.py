"""``adapterzoo merge``: merge a trained adapter into its base model."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.terminal import safe, stderr, stdout_to_stderr


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-m", "--method", required=True, help="Label or method of the adapter.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the adapter [the first].")
@click.option("--to", required=True, metavar="OUT", type=click.Path(path_type=Path), help="Folder to write.")
@trust_option
def merge(folder: Path, method: str, seed: int | None, to: Path, trust_remote_code: bool) -> None:
    """Merge the adapter METHOD in DIR into its base model.

    OUT becomes a model folder that transformers loads.
    """
    from adapterzoo.adapters import merging
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.running.progress import reporter

    adapter = find_adapter(folder, method, seed, trust_remote_code)
    from adapterzoo.machine.quiet import quiet_libraries

    with stdout_to_stderr(), quiet_libraries():
        merging.merge(adapter, to, reporter().say)
    stderr().print(safe(f"{to} written."), soft_wrap=True)
