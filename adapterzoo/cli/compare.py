"""``adapterzoo compare``: the comparison of what is on disk."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.terminal import stdout


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@click.option(
    "--format", "style", type=click.Choice(["table", "markdown", "csv", "json"]), default="table", show_default=True
)
@click.option("--sort", metavar="COLUMN", help="Order by this column, best first.")
def compare(folders: tuple[Path, ...], style: str, sort: str | None) -> None:
    """Print the comparison of the results in DIR..."""
    from adapterzoo import comparison, table

    titles = {column.title: column.name for column in (*table.METRICS.values(), *table.COSTS)}
    found = comparison.compare(*folders, sort=titles.get(sort or "", sort))
    if style == "table":
        table.render(found, stdout())
    else:
        click.echo(table.FORMATS[style](found), nl=False)
