"""``adapterzoo methods``: what is in the zoo."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.method import Method
from adapterzoo.registry import Registry, registry
from adapterzoo.terminal import safe, stdout


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def methods(name: str | None, as_json: bool) -> None:
    """What is in the zoo; with NAME, one method with its options and defaults."""
    zoo = registry()
    if name is not None and name not in zoo:
        raise UserError.at(f"methods {name}", "unknown method.", did_you_mean(name, zoo))
    if as_json:
        chosen = [name] if name else list(zoo)
        described: Any = [_describe(zoo[one], zoo) for one in chosen]
        broken = [vars(one) for one in zoo.broken]
        click.echo(json.dumps(described[0] if name else {"methods": described, "broken": broken}, indent=1))
    elif name is not None:
        _show_one(zoo[name], zoo)
    else:
        _show_all(zoo)


def _show_all(zoo: Registry) -> None:
    console = stdout()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    table.add_column("trains on", no_wrap=True)
    table.add_column("lr", no_wrap=True, justify="right")
    table.add_column("what it does")
    for name in zoo:
        method = zoo[name]
        table.add_row(
            safe(name, "bold"), safe(", ".join(method.bases)), safe(f"{method.learning_rate:g}"), safe(method.summary)
        )
    console.print(table)
    for broken in zoo.broken:
        console.print(safe(f"{broken.plugin} (from {broken.package}) was left out: {broken.reason}", "red"))
    console.print(Text("adapterzoo methods NAME shows a method's options.", "dim"))


def _show_one(method: Method[Any], zoo: Registry) -> None:
    console = stdout()
    console.print(safe(method.name, "bold").append_text(safe(f": {method.summary}", "none")))
    demand = f" (loaded for it whatever the recipe says: {method.demands})" if method.demands else ""
    for title, text in (
        ("paper", method.paper),
        ("from", zoo.package(method.name)),
        ("trains on", ", ".join(method.bases) + demand),
        ("merges on", ", ".join(method.merges) or "-"),
        ("learning rate", f"{method.learning_rate:g} ({method.learning_rate_source})"),
        ("size by", method.size_option or "-"),
    ):
        console.print(safe(f"{title}: ", "bold").append_text(safe(text, "none")), soft_wrap=True)
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("option", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("meaning")
    for option, field in method.options.model_fields.items():
        table.add_row(
            safe(option, "bold"),
            safe(json.dumps(field.get_default(call_default_factory=True))),
            safe(field.description or ""),
        )
    console.print(table)


def _describe(method: Method[Any], zoo: Registry) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "package": zoo.package(method.name),
        "bases": list(method.bases),
        "demands": method.demands,
        "merges": list(method.merges),
        "learning_rate": method.learning_rate,
        "learning_rate_source": method.learning_rate_source,
        "size_option": method.size_option,
        "options": method.options.model_json_schema().get("properties", {}),
    }
