"""``adapterzoo plugin check``: the conformance kit, run on any installed method."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click
from rich.table import Table

from adapterzoo.errors import PluginError, UserError
from adapterzoo.methods.contract import QUANTIZATIONS
from adapterzoo.methods.registry import registry
from adapterzoo.terminal import safe, stderr, stdout

if TYPE_CHECKING:
    from adapterzoo.conformance import Report


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Every method of the zoo.")
@click.option(
    "--quantization",
    "quantizations",
    multiple=True,
    type=click.Choice(QUANTIZATIONS),
    help="Only this quantization of the base model (repeatable).",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at a time [one a core].")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(
    names: tuple[str, ...], everything: bool, quantizations: tuple[str, ...], jobs: int | None, as_json: bool
) -> None:
    """Whether the methods NAME... are sound: trained on two tiny models, over each base that they claim."""
    chosen = _chosen(names, everything)
    from adapterzoo.conformance import cases

    wanted = [(case.method.name, case.architecture, case.quantization) for name in chosen for case in cases(name)]
    wanted = [case for case in wanted if not quantizations or case[2] in quantizations]
    if not wanted:
        raise UserError.at("plugin check --quantization", f"none of them trains on {' or '.join(quantizations)}.")
    reports = []
    for report in _run(wanted, jobs or os.cpu_count() or 1):
        reports.append(report)
        stderr().print(safe(str(report), "red" if report.failures else "dim"), soft_wrap=True)
    unsound = sorted({report.method for report in reports if report.failures} | _nowhere(reports))
    if as_json:
        click.echo(json.dumps([vars(report) for report in reports], indent=1))
    elif len(chosen) == 1:
        _show_properties(reports)
    else:
        _show_methods(reports)
    for name in sorted(_nowhere(reports)):
        stdout().print(safe(f"{name} declined every architecture: nothing was checked", "red"))
    if not as_json:
        said = f"not sound: {', '.join(unsound)}" if unsound else "sound"
        stdout().print(safe(said, "bold red" if unsound else "bold green"))
    if unsound:
        sys.exit(1)


def _chosen(names: Sequence[str], everything: bool) -> list[str]:
    """The methods to check.

    Raises:
        UserError: none was named, or one is not there or cannot be trained.
    """
    zoo = registry()
    if everything:
        return [name for name in zoo if zoo[name].unavailable is None]
    if not names:
        raise UserError.at("plugin check", "name a method, or give --all.")
    for name in names:
        try:
            method = zoo.require(name)
        except PluginError as error:
            raise UserError.at(f"plugin check {name}", str(error)) from None
        if method.unavailable:
            raise UserError.at(f"plugin check {name}", f"it cannot be trained here: {method.unavailable}")
    return list(dict.fromkeys(names))


def _run(wanted: Sequence[tuple[str, str, str]], jobs: int) -> Iterator[Report]:
    """Run cases side by side, each process on one core; reports come in the order of the cases."""
    from concurrent.futures.process import BrokenProcessPool

    # Inherited by the processes: several threads each would fight for the same cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    done = 0
    try:
        for report in _pool(wanted, jobs):
            done += 1
            yield report
    except BrokenProcessPool:
        # Which of the cases under way killed its process is not known: the rest one by one.
        for case in wanted[done:]:
            try:
                yield from _pool([case], 1)
            except BrokenProcessPool:
                yield _died(case)


def _pool(wanted: Sequence[tuple[str, str, str]], jobs: int) -> Iterator[Report]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(jobs, len(wanted)), get_context("spawn")) as pool:
        yield from pool.map(_case, wanted)


def _case(wanted: tuple[str, str, str]) -> Report:
    """In a process of its own, whose output nobody wants."""
    from adapterzoo.conformance import Case

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    name, architecture, base = wanted
    return Case(registry()[name], architecture, base).run()


def _died(wanted: tuple[str, str, str]) -> Report:
    from adapterzoo.conformance import PROPERTIES, Report

    verdicts: dict[str, str | None] = dict.fromkeys(PROPERTIES, "-")
    verdicts["wraps"] = "the process died: killed for memory, or by the method's own code"
    return Report(*wanted, verdicts=verdicts, look=registry()[wanted[0]].__class__.__module__)


def _nowhere(reports: Sequence[Report]) -> set[str]:
    """Methods that declined every architecture."""
    return {report.method for report in reports} - {report.method for report in reports if not report.declined}


def _show_properties(reports: Sequence[Report]) -> None:
    """One method: a row a property, a column a case."""
    from adapterzoo.conformance import PROPERTIES

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("property", no_wrap=True)
    ran = [report for report in reports if not report.declined]
    for report in ran:
        table.add_column(f"{report.architecture}\n{report.quantization}")
    for name in PROPERTIES:
        found = [report.verdicts[name] for report in ran]
        cells = [
            safe({None: "yes", "-": "-"}.get(verdict, "NO"), "bold red" if verdict not in (None, "-") else "")
            for verdict in found
        ]
        table.add_row(safe(name), *cells)
    stdout().print(table)


def _show_methods(reports: Sequence[Report]) -> None:
    """Many methods: a row each."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("method", "quantizations", "held", "failed", "declined"):
        table.add_column(title, no_wrap=True)
    for name in dict.fromkeys(report.method for report in reports):
        own = [report for report in reports if report.method == name]
        held = sum(verdict is None for report in own for verdict in report.verdicts.values())
        failed = sum(len(report.failures) for report in own)
        bases = ", ".join(dict.fromkeys(report.quantization for report in own))
        declined = ", ".join(dict.fromkeys(report.architecture for report in own if report.declined))
        table.add_row(
            safe(name), safe(bases), str(held), safe(str(failed), "bold red" if failed else ""), safe(declined or "-")
        )
    stdout().print(table)
