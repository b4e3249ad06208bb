"""A comparison as text: a table for the terminal, markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapterzoo.comparison import Comparison, Row
from adapterzoo.terminal import clean, count, duration, safe, size

BEST = "*"


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, where its values are, and how they read."""

    title: str
    name: str
    show: Callable[[Any], str]
    drop: int = 0
    """what goes first in a narrow terminal has the highest number; 0 always stays"""
    wide: bool = False
    """only where there is room to spare"""


def _rate(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _three(value: float) -> str:
    return f"{value:.3f}"


# Those of metrics that are here; any other has its own name for a title.
METRICS = {
    "exact_match": Column("match", "exact_match", _three),
    "test_loss": Column("loss", "test_loss", _three),
    "perplexity": Column("perpl.", "perplexity", lambda value: f"{value:.3g}", wide=True),
    "token_accuracy": Column("tokens", "token_accuracy", _three, drop=9),
    "rouge1": Column("R-1", "rouge1", _three, drop=10),
    "rouge2": Column("R-2", "rouge2", _three, drop=11),
    "rougeL": Column("R-L", "rougeL", _three, drop=9),
    "bleu": Column("BLEU", "bleu", lambda value: f"{value:.1f}", drop=9),
    "chrf": Column("chrF", "chrf", lambda value: f"{value:.1f}", drop=9),
    "accuracy": Column("acc.", "accuracy", _three, drop=9),
    "macro_f1": Column("F1", "macro_f1", _three, drop=9),
}
EXPLAINED = {
    "exact_match": "match: share of test answers exactly right",
    "accuracy": "acc.: share of test labels right",
    "macro_f1": "F1: mean over the labels",
    "rouge1": "R: ROUGE",
    "token_accuracy": "tokens: share of learned tokens that the model ranks first",
}
COSTS = (
    Column("params", "trainable_params", count, drop=1),
    Column("%", "share", lambda value: f"{value:.2f}", drop=6),
    Column("size", "adapter_bytes", size, drop=7),
    Column("time", "train_seconds", duration, drop=2),
    Column("tok/s", "tokens_per_second", lambda value: str(round(value)), drop=8),
    Column("memory", "peak_memory_bytes", size, drop=5),
    Column("lr", "learning_rate", _rate, drop=4),
    Column("base", "base", str, drop=3),
    Column("seeds", "seeds", lambda value: str(len(value)), wide=True),
)


def render(comparison: Comparison, console: Console) -> None:
    """Print the table, as many columns as fit, and below it what the cells have no room for."""
    columns = _columns(comparison)
    width = console.width
    without_extras = [column for column in columns if not column.wide]
    dropped: list[Column] = []
    if _measure(comparison, columns, console) > width:
        columns = without_extras
    while _measure(comparison, columns, console) > width and any(column.drop for column in columns):
        first = max(columns, key=lambda column: column.drop)
        dropped.append(first)
        columns = [column for column in columns if column is not first]
    console.print(_table(comparison, columns))
    for row in comparison.rows:
        if row.error:
            console.print(safe(f"{row.label} failed: {row.error}", "red"), soft_wrap=True)
        for option, change in row.adjusted.items():
            console.print(safe(f"{row.label}, {option}: {change}"), soft_wrap=True)
    notes = [f"{BEST} best of its column"]
    notes += [EXPLAINED[column.name] for column in columns if column.name in EXPLAINED]
    if dropped:
        notes.append(f"left out for width: {', '.join(column.title for column in dropped)}")
    console.print(Text("; ".join(notes), "dim"))


def plain(comparison: Comparison) -> str:
    """The table as text of any width, without colour."""
    stream = io.StringIO()
    render(comparison, Console(file=stream, width=200, highlight=False, no_color=True))
    return stream.getvalue()


def markdown(comparison: Comparison) -> str:
    """A table for a pull request; the best of a column is bold."""
    columns = _columns(comparison)
    lines = [
        "| method | " + " | ".join(column.title for column in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for row in comparison.rows:
        cells = []
        for column in columns:
            text = _cell(row, column, failed=column is columns[0])
            cells.append(f"**{text}**" if _is_best(comparison, row, column) else text)
        lines.append(f"| {inert_markdown(row.label)} | " + " | ".join(cells) + " |")
    lines += [
        f"\n{inert_markdown(row.label)} failed: {inert_markdown(row.error)}" for row in comparison.rows if row.error
    ]
    lines += [
        f"\n{inert_markdown(row.label)}, {inert_markdown(option)}: {inert_markdown(change)}"
        for row in comparison.rows
        for option, change in row.adjusted.items()
    ]
    return "\n".join(lines) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Full precision, one line a row; metrics are columns of their own."""
    fields = ["label", "method", "status", "error", "base", "learning_rate", "seeds", *comparison.metrics]
    fields += [
        "trainable_params",
        "total_params",
        "adapter_bytes",
        "train_seconds",
        "tokens_per_second",
        "peak_memory_bytes",
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(fields)
    for row in comparison.rows:
        values = [" ".join(map(str, row.seeds)) if name == "seeds" else row.value(name) for name in fields]
        writer.writerow(["" if value is None else _inert_formula(value) for value in values])
    return stream.getvalue()


def json_text(comparison: Comparison) -> str:
    """Everything, for programs."""
    return json.dumps(comparison.records(), indent=1) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {"markdown": markdown, "csv": csv_text, "json": json_text}


def _columns(comparison: Comparison) -> list[Column]:
    """All that there are values for. The first metric, which decides the order, is there in any case."""
    metrics = [
        METRICS.get(name, Column(clean(name), name, lambda value: f"{value:.3g}", drop=9))
        for name in comparison.metrics
    ]
    first = replace(metrics[0], drop=0, wide=False) if metrics else METRICS["exact_match"]
    return [first, *metrics[1:], *(column for column in COSTS if _present(comparison, column))]


def _table(comparison: Comparison, columns: Sequence[Column]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    for column in columns:
        # Room for the mark in every cell of a column that has a best, so that the digits stay below each other.
        table.add_column(column.title + _room(comparison, column), justify="right", no_wrap=True)
    for row in comparison.rows:
        cells = [safe(row.label, "" if row.status == "ok" else "red")]
        for column in columns:
            best = _is_best(comparison, row, column)
            text = _cell(row, column, failed=column is columns[0])
            cells.append(Text(text + (BEST if best else _room(comparison, column)), "bold green" if best else ""))
        table.add_row(*cells)
    return table


def _room(comparison: Comparison, column: Column) -> str:
    return " " * len(BEST) if comparison.better(column.name) else ""


def _measure(comparison: Comparison, columns: Sequence[Column], console: Console) -> int:
    return console.measure(_table(comparison, columns), options=console.options.update(width=1000)).maximum


def _value(row: Row, column: Column) -> Any:
    if column.name == "share":
        return 100 * row.trainable_params / row.total_params if row.method and row.total_params else None
    if row.method is None and column.name in ("trainable_params", "adapter_bytes"):
        return None
    return row.value(column.name)


def _cell(row: Row, column: Column, failed: bool = False) -> str:
    """A cell's text.

    Args:
        failed: this is the column in which a row without values says so.
    """
    if row.status == "failed" and not row.metrics:
        rate = _rate(row.learning_rate) if row.learning_rate else "-"
        return "failed" if failed else {"learning_rate": rate, "base": row.base}.get(column.name, "-")
    value = _value(row, column)
    return "-" if value is None else clean(column.show(value))


def _present(comparison: Comparison, column: Column) -> bool:
    if column.name == "seeds":
        return any(len(row.seeds) > 1 for row in comparison.rows)
    return any(_value(row, column) is not None for row in comparison.rows)


def _is_best(comparison: Comparison, row: Row, column: Column) -> bool:
    value, best = _value(row, column), comparison.best(column.name)
    if row.method is None and column.name not in row.metrics:
        return False  # the base is trained for nothing: its cost is no merit
    return row.status == "ok" and value is not None and best is not None and column.show(value) == column.show(best)


def inert_markdown(text: object) -> str:
    """A text that a markdown table shows as it is."""
    return (
        clean(text)
        .replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("*", "\\*")
        .replace("`", "\\`")
        .replace("[", "\\[")
    )


def _inert_formula(value: object) -> object:
    """A spreadsheet takes a cell that begins like this for a formula."""
    text = clean(value) if isinstance(value, str) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text
