"""``adapterzoo methods``: what is in the zoo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from adapterzoo.entry_points import BUILT_IN
from adapterzoo.errors import UserError
from adapterzoo.methods.contract import GROUPS, QUANTIZATIONS, Method, attributes
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.terminal import escape_markdown, safe, stdout

# Narrower, rate and paper would leave no room for what a method does.
WIDE = 110
LEGEND = "+ trains on a base with that quantization, ++ also merges into it"


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="A table for a document.")
def methods(name: str | None, as_json: bool, as_markdown: bool) -> None:
    """What is in the zoo; with NAME, one method with its options and defaults."""
    zoo = registry()
    if name is not None and name not in zoo:
        raise UserError.at(f"methods {name}", "unknown method.", zoo.hint(name))
    if as_json:
        chosen = [name] if name else list(zoo)
        described: Any = [_describe(zoo[one], zoo) for one in chosen]
        broken = [vars(one) for one in zoo.broken]
        click.echo(json.dumps(described[0] if name else {"methods": described, "broken": broken}, indent=1))
    elif as_markdown:
        click.echo(markdown(zoo), nl=False)
    elif name is not None:
        _show_one(zoo[name], zoo)
    else:
        _show_all(zoo)


def markdown(zoo: Registry) -> str:
    """The built-in methods as a table: the one in the README."""
    lines = ["| method | what it does | none | int8 | nf4 | learning rate | paper |", "| --- | --- |" + " :---: |" * 5]
    for group, found in _groups(zoo):
        found = [method for method in found if zoo.package(method.name) == BUILT_IN]
        lines += [f"| **{group}** | | | | | | |"] if found else []
        for method in found:
            quantizations = " | ".join(_ability(method, name) for name in QUANTIZATIONS)
            paper = f"[{_paper(method)}]({method.paper})"
            summary = escape_markdown(method.summary)
            lines.append(f"| `{method.name}` | {summary} | {quantizations} | {method.learning_rate:g} | {paper} |")
    lines += ["", f"{LEGEND}.", ""]
    for method in _unavailable(zoo):
        lines.append(f"- `{method.name}` cannot be trained here: {escape_markdown(method.unavailable)}")
    return "\n".join(lines) + "\n"


def _show_all(zoo: Registry) -> None:
    console = stdout()
    if not console.is_terminal:
        console.width = WIDE  # for a file or a pager there is room
    wide = console.width >= WIDE
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for title in ("method", *QUANTIZATIONS):
        table.add_column(title, no_wrap=True)
    if wide:
        table.add_column("lr", no_wrap=True, justify="right")
        table.add_column("paper", no_wrap=True)
    table.add_column("what it does")
    shown = 0
    for group, found in _groups(zoo):
        table.add_row(safe(group, "bold cyan"))
        for method in found:
            cells = [_ability(method, name) for name in QUANTIZATIONS]
            cells += [f"{method.learning_rate:g}", _paper(method)] if wide else []
            table.add_row(safe(f"  {method.name}", "bold"), *map(safe, cells), safe(method.summary))
            shown += 1
    console.print(table)
    console.print(Text(f"{shown} methods; {LEGEND}", "dim"))
    if unavailable := _unavailable(zoo):
        console.print(Text("\nIn PEFT, but cannot be trained here:", "bold"))
        for method in unavailable:
            console.print(safe(f"  {method.name}: {method.unavailable}"), soft_wrap=True)
    for broken in zoo.broken:
        console.print(safe(f"{broken.plugin} (from {broken.package}) was left out: {broken.reason}", "red"))
    console.print(Text("adapterzoo methods NAME shows a method's options.", "dim"))


def _show_one(method: Method[Any], zoo: Registry) -> None:
    console = stdout()
    console.print(safe(method.name, "bold").append_text(safe(f": {method.summary}", "none")))
    required = method.requires_quantization
    demand = f" (loaded for it whatever the recipe says: {required})" if required else ""
    facts = [
        ("cannot be trained here", method.unavailable or ""),
        ("paper", method.paper),
        ("group", method.group),
        ("from", zoo.package(method.name)),
        ("trains on", (", ".join(method.quantizations) or "-") + demand),
        ("merges on", ", ".join(method.mergeable_into) or "-"),
        ("learning rate", f"{method.learning_rate:g} ({method.learning_rate_source})"),
        ("size by", method.size_option or "-"),
        ("also", "; ".join(_peculiarities(method))),
    ]
    for title, text in facts:
        if text:
            console.print(safe(f"{title}: ", "bold").append_text(safe(text, "none")), soft_wrap=True)
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("option", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("meaning")
    defaults = method.options().model_dump(mode="json")
    for option, field in method.options.model_fields.items():
        table.add_row(safe(option, "bold"), safe(json.dumps(defaults[option])), safe(field.description or ""))
    console.print(table)


def _describe(method: Method[Any], zoo: Registry) -> dict[str, Any]:
    return {
        **{name: _plain(getattr(method, name)) for name in attributes()},
        "package": zoo.package(method.name),
        "options": method.options.model_json_schema().get("properties", {}),
    }


def _plain(value: Any) -> Any:
    """Return an attribute as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _groups(zoo: Registry) -> Iterator[tuple[str, list[Method[Any]]]]:
    """The methods that can be trained, by group."""
    for group in GROUPS:
        found = [zoo[name] for name in zoo if zoo[name].group == group and zoo[name].unavailable is None]
        if found:
            yield group, found


def _unavailable(zoo: Registry) -> list[Method[Any]]:
    return [zoo[name] for name in zoo if zoo[name].unavailable is not None]


def _ability(method: Method[Any], quantization: str) -> str:
    if quantization not in method.quantizations:
        return "-"
    return "++" if quantization in method.mergeable_into else "+"


def _paper(method: Method[Any]) -> str:
    """The number of an arXiv paper, or that there is another page."""
    return method.paper.rpartition("/")[2] if "arxiv.org" in method.paper else "page"


def _peculiarities(method: Method[Any]) -> list[str]:
    """What the row of the table cannot show."""
    said = {
        "starts away from the base's answers": not method.starts_at_base,
        "changes weights of the base, which is loaded again for the next row": method.changes_base,
        "looks at training rows first": method.reads_data,
        "begins a stopped cell anew": not method.resumes,
    }
    return [text for text, so in said.items() if so]
