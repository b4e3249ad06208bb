"""``adapterzoo plugin check``: run the conformance kit on any installed method."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click
from rich.table import Table

from adapterzoo.cli.plugin_pool import in_pool
from adapterzoo.errors import PluginError, UserError, did_you_mean
from adapterzoo.methods.registry import registry
from adapterzoo.methods.trainable import verdict
from adapterzoo.quantizations.registry import quantizations as all_quantizations
from adapterzoo.terminal import safe, stderr, stdout

if TYPE_CHECKING:
    from adapterzoo.conformance import Report

CaseKey = tuple[str, str, str, str]
"""the method, the architecture, the quantization and the type of task of a case"""


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Check every method of the zoo.")
@click.option(
    "--quantization",
    "quantizations",
    multiple=True,
    metavar="NAME",
    help="Check only this quantization of the base model, and no other task (repeatable).",
)
@click.option(
    "--family",
    "families",
    multiple=True,
    help="Check on the tiny model of this family only, like qwen3_moe; all = every family that is known (repeatable).",
)
@click.option("--thorough", is_flag=True, help="Also train for longer, with other settings, and on a larger model.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes that run at the same time [one per core].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def check(
    names: tuple[str, ...],
    everything: bool,
    quantizations: tuple[str, ...],
    families: tuple[str, ...],
    thorough: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Check that the methods NAME... are sound.

    They are trained on tiny models, with each of their quantizations and for each type of task.
    """
    chosen = chosen_methods("plugin check", names, everything)
    from adapterzoo.conformance import cases, family_cases, task_cases

    for quantization in quantizations:
        usable(f"plugin check --quantization {quantization}", quantization)
    found = []
    for name in chosen:
        wanted = [other for other in quantizations if verdict(registry(), name, other) is True]
        if quantizations and not wanted:
            continue
        if families:
            found += family_cases(name, _known(families), wanted)
        else:
            found += cases(name, wanted) if wanted else [*cases(name), *task_cases(name)]
    keys = [(case.method.name, case.architecture, case.quantization, case.task_type) for case in found]
    if not keys:
        what = f"none of the methods trains on {' or '.join(quantizations)}."
        raise UserError.at("plugin check --quantization", what)
    reports = []
    for report in in_pool(partial(_run_case, thorough=thorough), keys, _died, jobs):
        reports.append(report)
        stderr().print(safe(str(report), "red" if report.failures else "dim"), soft_wrap=True)
    unsound = sorted({report.method for report in reports if report.failures} | _unchecked(reports))
    if as_json:
        click.echo(json.dumps([vars(report) for report in reports], indent=1))
    elif families:
        _show_families(reports)
    elif len(chosen) == 1:
        _show_properties(reports)
    else:
        _show_methods(reports)
    for name in sorted(_unchecked(reports)):
        stdout().print(safe(f"{name} declined every architecture, so nothing was checked", "red"))
    if not as_json:
        outcome = f"not sound: {', '.join(unsound)}" if unsound else "sound"
        stdout().print(safe(outcome, "bold red" if unsound else "bold green"))
    if unsound:
        sys.exit(1)


def _known(families: Sequence[str]) -> list[str]:
    """Return the families to check on.

    Raises:
        UserError: one is not known.
    """
    from adapterzoo.conformance.families import FAMILIES

    if unknown := [name for name in families if name not in (*FAMILIES, "all")]:
        raise UserError.at(f"--family {unknown[0]}", "is not known.", did_you_mean(unknown[0], {*FAMILIES, "all"}))
    return list(FAMILIES) if "all" in families else list(dict.fromkeys(families))


def usable(where: str, quantization: str) -> None:
    """Raise UserError if a quantization does not exist, or cannot be used here."""
    if reason := all_quantizations().why_not(quantization):
        known = quantization in all_quantizations()
        raise UserError.at(where, reason.what if known else "unknown quantization.", reason.hint)


def chosen_methods(command: str, names: Sequence[str], everything: bool) -> list[str]:
    """Return the names of the methods that a command is to use.

    Raises:
        UserError: no method was named, or one does not exist or cannot be trained.
    """
    zoo = registry()
    if everything:
        return [name for name in zoo if zoo[name].unavailable is None]
    if not names:
        raise UserError.at(command, "name a method, or give --all.")
    for name in names:
        try:
            method = zoo.require(name)
        except PluginError as error:
            raise UserError.at(f"{command} {name}", str(error)) from None
        if method.unavailable:
            raise UserError.at(f"{command} {name}", f"it cannot be trained here: {method.unavailable}")
    return list(dict.fromkeys(names))


def _run_case(key: CaseKey, *, thorough: bool) -> Report:
    """Run a case, in a process of its own."""
    from adapterzoo.conformance import Case

    name, architecture, quantization, task_type = key
    return Case(registry()[name], architecture, quantization, task_type).run(thorough=thorough)


def _died(key: CaseKey) -> Report:
    """Return the report of a case that killed its process."""
    from adapterzoo.conformance import PROPERTIES, Report

    verdicts: dict[str, str | None] = dict.fromkeys(PROPERTIES, "-")
    verdicts["wraps"] = "the process died: it used too much memory, or the method's own code ended it"
    look = inspect.getsourcefile(type(registry()[key[0]])) or "?"
    return Report(*key[:3], verdicts=verdicts, look=look, task_type=key[3])


def _unchecked(reports: Sequence[Report]) -> set[str]:
    """Return the methods that declined every architecture."""
    return {report.method for report in reports} - {report.method for report in reports if not report.declined}


def _show_properties(reports: Sequence[Report]) -> None:
    """Print the table of one method, with a row for each property and a column for each case."""
    from adapterzoo.conformance import PROPERTIES

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("property", no_wrap=True)
    checked = [report for report in reports if not report.declined]
    for report in checked:
        table.add_column(f"{report.architecture}\n{report.what}")
    for name in PROPERTIES:
        verdicts = [report.verdicts[name] for report in checked]
        cells = [
            safe({None: "yes", "-": "-"}.get(verdict, "NO"), "bold red" if verdict not in (None, "-") else "")
            for verdict in verdicts
        ]
        table.add_row(safe(name), *cells)
    stdout().print(table)


def _show_families(reports: Sequence[Report]) -> None:
    """Print the table of families, with a row for each and a column for each method."""
    methods = list(dict.fromkeys(report.method for report in reports))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("family", *methods):
        table.add_column(safe(title), no_wrap=True)
    for family in dict.fromkeys(report.architecture for report in reports):
        of_family = {report.method: report for report in reports if report.architecture == family}
        verdicts = [
            "NO" if report.failures else "declined" if report.declined else "yes" for report in of_family.values()
        ]
        table.add_row(family, *(safe(verdict, "bold red" if verdict == "NO" else "") for verdict in verdicts))
    stdout().print(table)


def _show_methods(reports: Sequence[Report]) -> None:
    """Print the table of several methods, with a row for each."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("method", "quantizations", "held", "failed", "declined"):
        table.add_column(title, no_wrap=True)
    for name in dict.fromkeys(report.method for report in reports):
        own = [report for report in reports if report.method == name]
        held = sum(verdict is None for report in own for verdict in report.verdicts.values())
        failed = sum(len(report.failures) for report in own)
        quantizations = ", ".join(dict.fromkeys(report.quantization for report in own))
        declined = ", ".join(dict.fromkeys(report.architecture for report in own if report.declined))
        table.add_row(
            safe(name),
            safe(quantizations),
            str(held),
            safe(str(failed), "bold red" if failed else ""),
            safe(declined or "-"),
        )
    stdout().print(table)
