"""``adapterzoo export``: write a trained adapter in a form that servers load."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.cli.arguments import trust_option
from adapterzoo.errors import UserError
from adapterzoo.terminal import safe, stderr, stdout, stdout_to_stderr

FORMS = ("lora",)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-m", "--method", required=True, help="Label or method of the adapter.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the adapter [the first].")
@click.option("--as", "form", type=click.Choice(FORMS), required=True, help="Form to write.")
@click.option("--to", required=True, metavar="OUT", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--rank", type=click.IntRange(min=1), help="Rank of the LoRA adapter [the smallest that is needed].")
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the update that is kept [all of it up to rank 64, else 0.99].",
)
@click.option("--measure/--no-measure", default=True, help="Measure what is written on the test rows of the run.")
@trust_option
def export(
    folder: Path,
    method: str,
    seed: int | None,
    form: str,
    to: Path,
    rank: int | None,
    keep: float | None,
    measure: bool,
    trust_remote_code: bool,
) -> None:
    """Write the adapter METHOD in DIR in a form that servers load.

    lora: a LoRA adapter that changes the weights as the adapter does, exactly if its update has a low rank. It is
    measured on the test rows of the run, and compared with the adapter, answer by answer.
    """
    from adapterzoo.adapters.exporting import export_lora
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.report import changes as table
    from adapterzoo.running.progress import reporter

    if rank is not None and keep is not None:
        raise UserError.at("--rank", "contradicts --keep.", "Give one of them.")
    adapter = find_adapter(folder, method, seed, trust_remote_code)
    from adapterzoo.machine.quiet import quiet_libraries

    with stdout_to_stderr(), quiet_libraries():
        written = export_lora(adapter, to, reporter().say, rank=rank, keep=keep, measure=measure)
    held = "the whole update" if written.kept > 1 - 1e-6 else f"at least {written.kept:.2%} of each layer's update"
    stderr().print(safe(f"{to} written: rank {written.rank}, which holds {held}."), soft_wrap=True)
    if written.changes:
        table.render({adapter.result.label: written.changes}, "as lora", stdout())
