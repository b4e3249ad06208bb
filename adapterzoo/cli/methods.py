"""``adapterzoo methods``: list the methods of the zoo, or show one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from adapterzoo.cli.where import Matches, matching, parse
from adapterzoo.entry_points import BUILT_IN
from adapterzoo.errors import UserError
from adapterzoo.methods.capabilities import capabilities
from adapterzoo.methods.contract import GROUPS, QUANTIZATIONS, Method, attributes
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.methods.trainable import trains_on
from adapterzoo.report.capabilities import html, table
from adapterzoo.report.capabilities import markdown as capabilities_markdown
from adapterzoo.tasks.contract import Task
from adapterzoo.tasks.registry import tasks
from adapterzoo.terminal import escape_markdown, safe, stdout

# A narrower terminal shows no learning rates and no papers, to leave room for the summaries.
MIN_WIDE_COLUMNS = 110
LEGEND = "+ trains on a base with that quantization, ++ also merges into it"


@click.command()
@click.argument("name", required=False)
@click.option("--task", "task_name", metavar="NAME", help="List only the methods that can train models for this task.")
@click.option(
    "--where",
    metavar="TERMS",
    help="List only the methods that can do all of this, like merges,nf4 or task=classification,!resumes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a table for a document.")
@click.option(
    "--capabilities",
    "form",
    type=click.Choice(("markdown", "html")),
    help="Print what each method can do as a document, or as a page that can be filtered.",
)
def methods(
    name: str | None, task_name: str | None, where: str | None, as_json: bool, as_markdown: bool, form: str | None
) -> None:
    """List all methods of the zoo, or show the method NAME.

    A single method is shown with its options and defaults, and with what it can do.
    """
    zoo = registry()
    if task_name is not None and task_name not in tasks():
        raise UserError.at(f"--task {task_name}", "unknown task.", tasks().hint(task_name))
    task = None if task_name is None else tasks()[task_name]
    if name is not None and name not in zoo:
        raise UserError.at(f"methods {name}", "unknown method.", zoo.hint(name))
    found = Matches(list(zoo), []) if where is None else matching(zoo, parse(where, tasks()))
    chosen = [name] if name else [method for method in found.names if _suits(zoo[method], task)]
    if as_json:
        described: Any = [_describe(zoo[method], zoo) for method in chosen]
        broken = [vars(plugin) for plugin in zoo.broken]
        listed = {"methods": described, "broken": broken} | ({"not_known": found.unknown} if where else {})
        click.echo(json.dumps(described[0] if name else listed, indent=1))
    elif form:
        shown = table(zoo, tasks(), chosen)
        click.echo(html(shown) if form == "html" else capabilities_markdown(shown), nl=False)
    elif as_markdown:
        click.echo(markdown(zoo, chosen), nl=False)
    elif name is not None:
        _show_method(zoo[name], zoo)
    else:
        _show_all(zoo, task, None if where is None else found)


def markdown(zoo: Registry, chosen: Sequence[str] | None = None) -> str:
    """Return the table of the built-in methods for the README, or one of those that were chosen."""
    chosen = list(zoo) if chosen is None else chosen
    lines = ["| method | what it does | none | int8 | nf4 | learning rate | paper |", "| --- | --- |" + " :---: |" * 5]
    for group, members in _groups(zoo):
        built_in = [method for method in members if method.name in chosen and zoo.package(method.name) == BUILT_IN]
        lines += [f"| **{group}** | | | | | | |"] if built_in else []
        for method in built_in:
            quantizations = " | ".join(_ability(method, name) for name in QUANTIZATIONS)
            paper = f"[{_paper(method)}]({method.paper})"
            summary = escape_markdown(method.summary)
            lines.append(f"| `{method.name}` | {summary} | {quantizations} | {method.learning_rate:g} | {paper} |")
    lines += ["", f"{LEGEND}.", ""]
    for method in [method for method in _unavailable(zoo) if method.name in chosen]:
        lines.append(f"- `{method.name}` cannot be trained here: {escape_markdown(method.unavailable)}")
    return "\n".join(lines) + "\n"


def _suits(method: Method[Any], task: Task[Any] | None) -> bool:
    return task is None or task.task_type in method.task_types


def _show_all(zoo: Registry, task: Task[Any] | None, found: Matches | None) -> None:
    """Print the list of all methods, or of those that suit a task and were found."""
    console = stdout()
    if not console.is_terminal:
        console.width = MIN_WIDE_COLUMNS  # A file or a pager has room for all columns.
    wide = console.width >= MIN_WIDE_COLUMNS
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for title in ("method", *QUANTIZATIONS):
        grid.add_column(title, no_wrap=True)
    if wide:
        grid.add_column("lr", no_wrap=True, justify="right")
        grid.add_column("paper", no_wrap=True)
    grid.add_column("what it does")
    shown = 0
    for group, all_members in _groups(zoo):
        members = [
            method for method in all_members if _suits(method, task) and (not found or method.name in found.names)
        ]
        if members:
            grid.add_row(safe(group, "bold cyan"))
        for method in members:
            cells = [_ability(method, name) for name in QUANTIZATIONS]
            cells += [f"{method.learning_rate:g}", _paper(method)] if wide else []
            grid.add_row(safe(f"  {method.name}", "bold"), *map(safe, cells), safe(method.summary))
            shown += 1
    console.print(grid)
    console.print(Text(f"{shown} methods; {LEGEND}", "dim"))
    if found is not None and found.unknown:
        console.print()
        hint = "their package has no record; adapterzoo plugin capabilities NAME makes one"
        console.print(safe(f"Not known of {len(found.unknown)}: {', '.join(found.unknown)} ({hint})"), soft_wrap=True)
    if task and (unsuited := [name for name in zoo if not _suits(zoo[name], task) and not zoo[name].unavailable]):
        console.print()
        what = f"Cannot train models for the task {task.name} ({task.task_type}): {', '.join(unsuited)}"
        console.print(safe(what), soft_wrap=True)
    if found is None and (unavailable := _unavailable(zoo)):
        console.print(Text("\nIn PEFT, but cannot be trained here:", "bold"))
        for method in unavailable:
            console.print(safe(f"  {method.name}: {method.unavailable}"), soft_wrap=True)
    for broken in zoo.broken:
        console.print(safe(f"{broken.plugin} (from {broken.package}) was left out: {broken.reason}", "red"))
    console.print(Text("adapterzoo methods NAME shows a method's options.", "dim"))


def _show_method(method: Method[Any], zoo: Registry) -> None:
    console = stdout()
    console.print(safe(method.name, "bold").append_text(safe(f": {method.summary}", "none")))
    required = method.requires_quantization
    requirement = f" (always {required}, whatever the recipe says)" if required else ""
    facts = [
        ("cannot be trained here", method.unavailable or ""),
        ("paper", method.paper),
        ("group", method.group),
        ("from", zoo.package(method.name)),
        ("tasks", _tasks(method)),
        ("trains on", (", ".join(trains_on(zoo, method.name)) or "-") + requirement),
        ("merges into", ", ".join(method.mergeable_into) or "-"),
        ("learning rate", f"{method.learning_rate:g} ({method.learning_rate_source})"),
        ("size option", method.size_option or "-"),
        ("also", "; ".join(_notes(method))),
    ]
    for title, text in facts:
        if text:
            console.print(safe(f"{title}: ", "bold").append_text(safe(text, "none")), soft_wrap=True)
    console.print()
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("option", no_wrap=True)
    grid.add_column("default", no_wrap=True)
    grid.add_column("meaning")
    defaults = method.options().model_dump(mode="json")
    for option, field in method.options.model_fields.items():
        grid.add_row(safe(option, "bold"), safe(json.dumps(defaults[option])), safe(field.description or ""))
    console.print(grid)
    if not method.unavailable:
        _show_capabilities(method, zoo)


def _show_capabilities(method: Method[Any], zoo: Registry) -> None:
    """Print what a method can do, and why it cannot do the rest."""
    shown = table(zoo, tasks(), [method.name])
    (row,) = shown.rows
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("capability", "", "meaning, and why not"):
        grid.add_column(title, no_wrap=title == "capability")
    for column in shown.columns:
        value = row.record.get(column.name, "not known")
        verdict = "yes" if value is True else "?" if column.name not in row.record else "no"
        meaning = column.meaning if value is True else f"{column.meaning}: {value}"
        grid.add_row(safe(column.title, "bold"), safe(verdict), safe(meaning))
    stdout().print()
    stdout().print(grid)
    stdout().print(safe(shown.made[0], "dim"), soft_wrap=True)


def _describe(method: Method[Any], zoo: Registry) -> dict[str, Any]:
    return {
        **{name: _plain(getattr(method, name)) for name in attributes()},
        "package": zoo.package(method.name),
        "capabilities": capabilities(zoo, method.name),
        "options": method.options.model_json_schema().get("properties", {}),
    }


def _plain(value: Any) -> Any:
    """Return the value of an attribute in a type that JSON has."""
    return list(value) if isinstance(value, tuple) else value


def _tasks(method: Method[Any]) -> str:
    """Return the names of the tasks that a method can train models for."""
    return ", ".join(name for name, task in tasks().items() if _suits(method, task)) or "-"


def _groups(zoo: Registry) -> Iterator[tuple[str, list[Method[Any]]]]:
    """Yield each group with its methods that can be trained."""
    for group in GROUPS:
        members = [zoo[name] for name in zoo if zoo[name].group == group and zoo[name].unavailable is None]
        if members:
            yield group, members


def _unavailable(zoo: Registry) -> list[Method[Any]]:
    return [zoo[name] for name in zoo if zoo[name].unavailable is not None]


def _ability(method: Method[Any], quantization: str) -> str:
    """Return the sign (see ``LEGEND``) for a method and a quantization; ``-`` if the method cannot train on it."""
    if quantization not in method.quantizations:
        return "-"
    return "++" if quantization in method.mergeable_into else "+"


def _paper(method: Method[Any]) -> str:
    """Return the number of an arXiv paper, or ``page`` for another page."""
    return method.paper.rpartition("/")[2] if "arxiv.org" in method.paper else "page"


def _notes(method: Method[Any]) -> list[str]:
    """Return the facts about a method that the table has no column for."""
    notes = {
        "does not start with the answers of the base model": not method.starts_at_base,
        "changes weights of the base model, which is then loaded again for the next cell": method.changes_base,
        "reads training rows before it starts": method.reads_data,
        "starts a stopped cell from the beginning": not method.resumes,
        "plain PEFT loads its adapters": method.loads_in_peft,
    }
    return [note for note, applies in notes.items() if applies]
