"""``adapterzoo compare``: compare the results on disk."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.errors import UserError
from adapterzoo.terminal import stdout

FORMATS = ("table", "markdown", "csv", "json", "html")


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@click.option("--format", "style", type=click.Choice(FORMATS), show_default="table", help="Form of the output.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--sort", metavar="COLUMN", help="Order the rows by this column, best first.")
@click.option("--against", metavar="LABEL", help="Compare all rows with this one, not with the best.")
@click.option(
    "--price",
    type=click.FloatRange(min=0, min_open=True),
    help="Price of one hour of the machine; adds a column with the cost.",
)
@click.option("--pareto", metavar="COLUMN", help="Plot the score against a cost: params, memory, time, ...")
@click.option("--curves", is_flag=True, help="Plot the training loss of all methods by step.")
@click.option(
    "--examples", type=click.IntRange(min=1), metavar="N", help="Show the answers of all methods to N test examples."
)
def compare(
    folders: tuple[Path, ...],
    style: str | None,
    as_json: bool,
    sort: str | None,
    against: str | None,
    price: float | None,
    pareto: str | None,
    curves: bool,
    examples: int | None,
) -> None:
    """Print the comparison of the results in DIR...

    Rows that are not comparable, because their data or software differs, are in separate tables.
    """
    from adapterzoo import comparison
    from adapterzoo.report import table, text
    from adapterzoo.report.columns import names_by_title

    if as_json and style not in (None, "json"):
        raise UserError.at("--json", f"contradicts --format {style}.", "Give one of them.")
    style = "json" if as_json else style or "table"
    views = {"--pareto": pareto, "--curves": curves, "--examples": examples}
    chosen = [name for name, value in views.items() if value]
    if chosen and style != "table":
        hint = f"Leave out {'--json' if as_json else '--format'}; the page of --format html has plots."
        raise UserError.at(chosen[0], "works only in the terminal.", hint)
    for name, value in (("--against", against), ("--price", None if pareto else price)):
        if chosen and value is not None:
            raise UserError.at(name, f"has no effect on {chosen[0]}.", "Leave one of them out.")
    column = names_by_title().get(sort or "", sort)
    compared = comparison.compare(*folders, sort=column, against=against, price=price)
    if style != "table":
        from adapterzoo.report import page

        written = page.html(compared) if style == "html" else text.FORMATS[style](compared)
        # Write UTF-8 even if the terminal cannot show it, because these formats are for files that programs read.
        click.echo(written.encode(), nl=False)
        return
    if examples:
        from adapterzoo.report import side_by_side

        side_by_side.render(compared, examples, stdout())
    if pareto:
        from adapterzoo.report import pareto as pareto_plot

        pareto_plot.render(compared, names_by_title().get(pareto, pareto), stdout())
    if curves:
        from adapterzoo.report import curves as curves_plot

        curves_plot.render(compared, stdout())
    if not chosen:
        table.render(compared, stdout())
