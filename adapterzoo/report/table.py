"""A comparison as a table in the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.report import notes
from adapterzoo.report.columns import BEST, TIED, Column, cell, columns, mark, marked
from adapterzoo.terminal import clean, safe, tell

# Characters that always fit into a label's column; longer labels are broken into lines if other columns need the space.
LABEL_WIDTH = 24


def render(comparison: Comparison, console: Console) -> None:
    """Print the table with as many columns as fit, and the notes below it."""
    explanations, dropped = [*notes.legend(comparison)], list[Column]()
    for part in comparison.parts():
        shown, without = _fitting(part, console)
        for block in part.blocks:
            head(block, console)
            console.print(_table(part, [block], shown))
        explanations += [column.explanation for column in shown if column.explanation]
        dropped += without
    for note in notes.row_notes(comparison):
        console.print(safe(note.text, "red" if note.failure else ""), soft_wrap=True)
    for verdict in notes.verdicts(comparison):
        console.print(safe(verdict))
    for paragraph in notes.next_steps(comparison):
        console.print(safe(paragraph))
    if dropped:
        explanations.append(f"no room for columns: {', '.join(dict.fromkeys(column.title for column in dropped))}")
    console.print(safe("; ".join(dict.fromkeys(explanations)), "dim"))


def _fitting(comparison: Comparison, console: Console) -> tuple[list[Column], list[Column]]:
    """Return the columns for which the terminal has room, and the others."""
    shown = columns(comparison)
    width = console.width
    dropped: list[Column] = []
    if _measure(comparison, shown, console) > width:
        dropped = [column for column in shown if column.wide]
        shown = [column for column in shown if not column.wide]
    while _measure(comparison, shown, console) > width and any(column.drop for column in shown):
        least_needed = max(shown, key=lambda column: column.drop)
        dropped.append(least_needed)
        shown = [column for column in shown if column is not least_needed]
    return shown, dropped


def head(block: Block, console: Console) -> None:
    """Print why a block's rows are not in the first table, if they are not."""
    if block.differs:
        console.print()
        tell(console, notes.why_apart(block), "bold")


def plain(comparison: Comparison) -> str:
    """Return the table as text, 200 characters wide and without colour."""
    stream = io.StringIO()
    render(comparison, Console(file=stream, width=200, highlight=False, no_color=True))
    return stream.getvalue()


def _table(comparison: Comparison, blocks: Sequence[Block], shown: Sequence[Column]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    longest = max((len(clean(row.label)) for block in blocks for row in block.rows), default=0)
    table.add_column("method", overflow="fold", min_width=min(LABEL_WIDTH, longest))
    for column in shown:
        # If one cell of a column has a mark, leave room for a mark in all cells, so that the digits are aligned.
        room = " " * len(BEST) if marked(comparison, column) else ""
        table.add_column(safe(column.title + room), justify="right", no_wrap=True)
    for block in blocks:
        for row in block.rows:
            cells = [safe(row.label, "" if row.status == "ok" else "red")]
            for column in shown:
                text, sign = cell(row, column, failed=column is shown[0]), mark(comparison, block, row, column)
                room = " " if marked(comparison, column) and not sign else ""
                style = {BEST: "bold green", TIED: "green"}.get(sign, "")
                cells.append(safe(text + sign + room, style))
            table.add_row(*cells)
    return table


def _measure(comparison: Comparison, shown: Sequence[Column], console: Console) -> int:
    """Return the width of a table with these columns."""
    table = _table(comparison, comparison.blocks, shown)
    table.columns[0].max_width = LABEL_WIDTH
    return console.measure(table, options=console.options.update(width=1000)).maximum
