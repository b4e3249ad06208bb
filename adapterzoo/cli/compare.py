"""``adapterzoo compare``: compare the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.errors import UserError
from adapterzoo.terminal import stdout, stdout_to_stderr

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
    help="Price of an hour of what a cell runs on, such as a GPU; adds a column with the cost.",
)
@click.option("--pareto", metavar="COLUMN", help="Plot the score against a cost: params, memory, time, ...")
@click.option("--curves", is_flag=True, help="Plot the training loss of all methods by step.")
@click.option(
    "--serving",
    is_flag=True,
    help="Say how each adapter can be served, and what its answers cost; what is not known yet is tried now.",
)
@trust_option
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
    serving: bool,
    trust_remote_code: bool,
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
    if serving:
        _try_serving(folders, trust_remote_code)
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
    if serving:
        from adapterzoo.report import serving as serving_table

        serving_table.render(compared, stdout())


def _try_serving(folders: Sequence[Path], trust_remote_code: bool) -> None:
    """Find out how the adapters of some output folders can be served, one of each label."""
    from adapterzoo.adapters.serving import try_servings
    from adapterzoo.machine.quiet import quiet_libraries
    from adapterzoo.running.progress import reporter

    say = reporter().say
    with stdout_to_stderr(), quiet_libraries():
        for folder in folders:
            try_servings(folder, say, trust_remote_code)
