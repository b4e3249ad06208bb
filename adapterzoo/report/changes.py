"""The table that compares merged and exported adapters with the adapters themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from adapterzoo.report.columns import difference_text, interval_text, metric_column
from adapterzoo.terminal import safe

if TYPE_CHECKING:
    from adapterzoo.comparison.statistics import Difference


def render(changes: Mapping[str, Sequence[tuple[str, float, float, Difference]]], form: str, console: Console) -> None:
    """Print a line for each label and metric.

    Args:
        changes: label -> for each metric its column, the score of the adapter, the score in the other form, and the
            difference of the two.
        form: what the other form is called.
        console: where to print.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("method", "metric", "adapter", form, "difference", "95 %"):
        table.add_column(title, no_wrap=True, justify="left" if title in ("method", "metric") else "right")
    for label, of_label in changes.items():
        for name, before, after, difference in of_label:
            column = metric_column(name)
            interval = interval_text(difference.interval) if difference.interval else "-"
            numbers = (column.show(before), column.show(after), difference_text(name)(difference.value), interval)
            table.add_row(safe(label), safe(column.title), *map(safe, numbers))
    console.print(table)
