"""``adapterzoo quantizations``: list how the base model's weights can be stored, and what trains on that."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table

from adapterzoo.entry_points import BUILT_IN
from adapterzoo.errors import UserError
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.methods.trainable import verdict
from adapterzoo.quantizations.registry import Quantizations
from adapterzoo.quantizations.registry import quantizations as installed
from adapterzoo.terminal import escape_markdown, safe, stdout


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print two tables for a document.")
def quantizations(name: str | None, as_json: bool, as_markdown: bool) -> None:
    """List the quantizations of the base model, or show which methods train on the quantization NAME."""
    known, zoo = installed(), registry()
    if name is not None and name not in known:
        raise UserError.at(f"quantizations {name}", "unknown quantization.", known.hint(name))
    if as_json:
        found = [_describe(known, zoo, each) for each in ([name] if name else known)]
        click.echo(json.dumps(found[0] if name else found, indent=1))
    elif as_markdown:
        click.echo(markdown(known, zoo), nl=False)
    elif name is not None:
        _show_one(known, zoo, name)
    else:
        _show_all(known, zoo)
    for broken in known.broken if not (as_json or as_markdown) else ():
        stdout().print(safe(f"{broken.plugin} (from {broken.package}) was left out: {broken.reason}", "red"))


def markdown(known: Quantizations, zoo: Registry) -> str:
    """Return two tables: the quantizations, and the methods that were seen to train on each that recipes can name."""
    lines = ["| quantization | how it stores weights | bytes a weight | needs |", "| --- | --- | ---: | --- |"]
    for name, item in known.items():
        needs = f"`adapterzoo[{item.extra}]`" if item.extra else ", ".join(item.packages)
        needs = f"a model that comes so{'; ' if needs else ''}{needs}" if item.only_checkpoints else needs or "-"
        lines.append(f"| `{name}` | {escape_markdown(item.summary)} | {_bytes(item)} | {needs} |")
    names = [name for name, item in known.items() if not item.only_checkpoints]
    lines += ["", f"| method | {' | '.join(names)} |", f"| --- |{' :---: |' * len(names)}"]
    for method in _methods(zoo):
        signs = [_sign(verdict(zoo, method, name)) for name in names]
        lines.append(f"| `{method}` | {' | '.join(signs)} |")
    return "\n".join(lines) + "\n"


def _methods(zoo: Registry) -> list[str]:
    return [name for name in zoo if zoo[name].unavailable is None and zoo.package(name) == BUILT_IN]


def _sign(found: bool | str | None) -> str:
    return "?" if found is None else "+" if found is True else "-"


def _bytes(item: Any) -> str:
    return "as its dtype" if item.bytes_per_parameter is None else f"{item.bytes_per_parameter:.2f}"


def _show_all(known: Quantizations, zoo: Registry) -> None:
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("quantization", "bytes a weight", "methods"):
        grid.add_column(title, no_wrap=True, justify="left" if title == "quantization" else "right")
    grid.add_column("how it stores weights, and what it needs")
    for name, item in known.items():
        found = [verdict(zoo, method, name) for method in zoo if zoo[method].unavailable is None]
        count = "-" if item.only_checkpoints and not any(found) else str(found.count(True))
        reason = item.why_not_here()
        text = f"{item.summary}{f'; it {reason.what} {reason.hint}' if reason else ''}"
        grid.add_row(safe(name, "bold"), safe(_bytes(item)), safe(count), safe(text))
    stdout().print(grid)
    hint = "methods: how many train on it. adapterzoo quantizations NAME shows which, and why others do not."
    stdout().print(safe(hint, "dim"), soft_wrap=True)


def _show_one(known: Quantizations, zoo: Registry, name: str) -> None:
    item, console = known[name], stdout()
    console.print(safe(name, "bold").append_text(safe(f": {item.summary}", "none")))
    reason = item.why_not_here()
    facts = {
        "bytes a weight": _bytes(item),
        "from": known.package(name),
        "not here": f"it {reason.what}" if reason else "",
    }
    for title, text in facts.items():
        if text:
            console.print(safe(f"{title}: ", "bold").append_text(safe(text, "none")), soft_wrap=True)
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("method", "trains on it"):
        grid.add_column(title, no_wrap=title == "method")
    for method in zoo:
        if zoo[method].unavailable is None:
            found = verdict(zoo, method, name)
            shown = (
                {True: "yes", None: "was never tried", False: "no"}.get(found) if not isinstance(found, str) else None
            )
            grid.add_row(safe(method, "bold"), safe(shown or f"no: {found}"))
    console.print()
    console.print(grid)


def _describe(known: Quantizations, zoo: Registry, name: str) -> dict[str, Any]:
    item, reason = known[name], known[name].why_not_here()
    return {
        "name": name,
        "summary": item.summary,
        "bits": item.bits,
        "bytes_per_parameter": item.bytes_per_parameter,
        "needs": list(item.packages),
        "only_checkpoints": item.only_checkpoints,
        "why_not_here": " ".join(reason).strip() if reason else None,
        "package": known.package(name),
        "methods": {method: verdict(zoo, method, name) for method in zoo if zoo[method].unavailable is None},
    }
