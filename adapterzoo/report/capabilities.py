"""The table of what each method can do, as markdown and as a page that can be filtered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from adapterzoo.methods.capabilities import COLUMNS, Record, capabilities, made_with
from adapterzoo.methods.contract import TASK_TYPES
from adapterzoo.methods.registry import Registry
from adapterzoo.report.template import environment
from adapterzoo.tasks.registry import Tasks
from adapterzoo.terminal import escape_markdown


class Column(NamedTuple):
    """A capability, as the heads of tables have it."""

    name: str
    """the term for it in ``--where``"""
    title: str
    meaning: str


class Row(NamedTuple):
    """A method and what it can do."""

    name: str
    summary: str
    record: Record


class Table(NamedTuple):
    """The capabilities of some methods."""

    columns: list[Column]
    rows: list[Row]
    made: list[str]
    """for each package, with what its records were made"""


def table(zoo: Registry, tasks: Tasks, names: Iterable[str]) -> Table:
    """Return what some methods can do; those that cannot be trained are left out."""
    rows = [Row(name, zoo[name].summary, capabilities(zoo, name)) for name in names if not zoo[name].unavailable]
    made = {zoo.package(row.name): made_with(zoo.module(row.name)) for row in rows}
    sources = [f"{package}: {_made(versions)}" for package, versions in made.items()]
    return Table([_column(name, tasks) for name in COLUMNS], rows, sources)


def _made(versions: Mapping[str, str]) -> str:
    parts = ", ".join(version if name == "date" else f"{name} {version}" for name, version in versions.items())
    return f"tried with {parts}" if parts else "not tried; only what its methods declare is known"


def _column(name: str, tasks: Tasks) -> Column:
    """Return the column of a capability; that of a type of tasks has the names of the tasks."""
    if name not in TASK_TYPES:
        return Column(name, name, COLUMNS[name])
    title = ", ".join(task for task in tasks if tasks[task].task_type == name) or name
    return Column(name, title, f"trains models for {title}")


def markdown(shown: Table) -> str:
    """Return the table as markdown, with the meaning of the columns in front, and the reasons behind."""
    lines = ["| term | a method that has it |", "| --- | --- |"]
    lines += [f"| `{column.name}` | {escape_markdown(column.meaning)} |" for column in shown.columns]
    heads = [column.title.replace(", ", "<br>") for column in shown.columns]
    lines += ["", f"| method | {' | '.join(heads)} |", f"| --- |{' :---: |' * len(heads)}"]
    for row in shown.rows:
        cells = [_sign(row.record.get(column.name)) for column in shown.columns]
        lines.append(f"| `{row.name}` | {' | '.join(cells)} |")
    lines += [
        "",
        "+ seen to work, - does not, ? not known.",
        "",
        *(f"- {escape_markdown(text)}" for text in shown.made),
    ]
    lines += ["", "## Why not", ""]
    for row in shown.rows:
        reasons = [f"*{', '.join(titles)}*: {escape_markdown(why)}" for why, titles in _reasons(row, shown.columns)]
        lines += [f"- `{row.name}`: {'; '.join(reasons)}"] if reasons else []
    return "\n".join(lines) + "\n"


def _sign(value: bool | str | None) -> str:
    return "?" if value is None else "+" if value is True else "-"


def _reasons(row: Row, columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Return each reason why a method lacks capabilities, with their titles."""
    reasons: dict[str, list[str]] = {}
    for column in columns:
        if isinstance(why := row.record.get(column.name), str):
            reasons.setdefault(why, []).append(column.title)
    return list(reasons.items())


def html(shown: Table) -> str:
    """Return a page with the table, which can be filtered; it loads nothing and runs only its own script.

    Args:
        shown: what the page shows; none of its texts is trusted.
    """
    rows = [(row, [(column.name, row.record.get(column.name)) for column in shown.columns]) for row in shown.rows]
    return environment("adapterzoo.report").get_template("capabilities.html.in").render(table=shown, rows=rows)
