"""The table that says how each adapter can be served, and what its answers cost then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from adapterzoo.comparison import Comparison
from adapterzoo.report.columns import difference_text, interval_text, metric_column
from adapterzoo.terminal import clean, safe, size

TITLES = ("method", "served as", "loses", "size", "many", "s/answer", "merged", "memory", "merged")
EXPLANATION = (
    "served as: the form in which servers can load it; loses: what the conversion to that form costs; many: whether "
    "many adapters share one loaded base model; s/answer and memory: with the adapter, then merged; each was tried"
)


def render(comparison: Comparison, console: Console) -> None:
    """Print the table, and below it which form an adapter cannot have, and why."""
    if not any(row.serving for row in comparison.rows):
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for number, title in enumerate(TITLES):
        table.add_column(title, justify="left" if number < 2 else "right", overflow="fold")
    for line in lines(comparison):
        table.add_row(*map(safe, line))
    console.print()
    console.print(table)
    for reason in reasons(comparison):
        console.print(safe(reason), soft_wrap=True)
    console.print(safe(EXPLANATION, "dim"))


def lines(comparison: Comparison) -> Iterator[list[str]]:
    """Yield the cells of each line of the table, one for each row whose adapter was tried."""
    for row in comparison.rows:
        if (tried := row.serving) is None:
            continue
        form = clean(tried["served_as"]) + (f" r{tried['rank']}" if tried["rank"] else "")
        costs = [tried["adapter"], tried["merged"]]
        seconds = ["-" if cost is None else f"{cost['seconds']:.2g}" for cost in costs]
        memory = ["-" if cost is None else size(cost["memory_bytes"]) for cost in costs]
        many = "yes" if tried["shares_base"] else "no"
        yield [clean(row.label), form, _loss(tried["loss"]), size(tried["bytes"]), many, *seconds, *memory]


def reasons(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence for each form that an adapter cannot have."""
    for row in comparison.rows:
        for form, reason in (row.serving or {}).get("why_not", {}).items():
            yield f"{clean(row.label)}, no {clean(form)}: {clean(reason)}"


def _loss(loss: dict[str, Any]) -> str:
    if not loss:
        return "nothing"
    metric, interval = loss["metric"], loss["interval"]
    ends = f" ({interval_text(tuple(interval))})" if interval else ""
    return f"{metric_column(metric).title} {difference_text(metric)(loss['difference'])}{ends}"
