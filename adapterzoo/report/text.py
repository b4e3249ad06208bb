"""A comparison as markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence

from adapterzoo.comparison import Comparison
from adapterzoo.comparison.comparison import Block
from adapterzoo.report import notes, serving
from adapterzoo.report.columns import BEST, Column, cell, columns, mark
from adapterzoo.terminal import clean, escape_markdown

# Fields of a row that are useful in a spreadsheet; the columns of metrics are between the two lists.
FIELDS = ("label", "method", "status", "error", "block", "quantization", "learning_rate", "seeds")
MORE_FIELDS = (
    "difference", "p_value", "tied", "trainable_params", "total_params", "adapter_bytes", "train_seconds",
    "answer_seconds", "tune_seconds", "total_seconds", "cost", "tokens_per_second", "peak_memory_bytes",
)  # fmt: skip


def markdown(comparison: Comparison) -> str:
    """Return a markdown table; the best value of a column is bold, and values that are tied with it have a ``=``."""
    lines, explanations = list[str](), [*notes.legend(comparison, best="bold:")]
    for part in comparison.parts():
        shown = columns(part)
        for block in part.blocks:
            lines += _markdown_table(part, block, shown)
        explanations += [column.explanation for column in shown if column.explanation]
    # Labels are bold, because a label such as "# a" would begin a heading or a list.
    for note in notes.row_notes(comparison):
        lines.append(f"\n**{escape_markdown(note.label).strip()}**{escape_markdown(note.rest)}")
    lines += [f"\n{escape_markdown(verdict)}." for verdict in notes.verdicts(comparison)]
    lines += [f"\n{escape_markdown(paragraph)}" for paragraph in notes.next_steps(comparison)]
    lines += _markdown_serving(comparison)
    lines.append(f"\n{escape_markdown('; '.join(dict.fromkeys(explanations)))}.")
    return "\n".join(lines).strip("\n") + "\n"


def _markdown_table(comparison: Comparison, block: Block, shown: Sequence[Column]) -> Iterator[str]:
    """Yield the lines of a block's table."""
    if block.differs:
        yield from ("", escape_markdown(notes.why_apart(block)), "")
    yield "| method | " + " | ".join(escape_markdown(column.title) for column in shown) + " |"
    yield "| --- |" + " ---: |" * len(shown)
    for row in block.rows:
        cells = []
        for column in shown:
            text = escape_markdown(cell(row, column, failed=column is shown[0]))
            sign = mark(comparison, block, row, column)
            cells.append(f"**{text}**" if sign == BEST else f"{text}{sign}")
        yield f"| {escape_markdown(row.label)} | " + " | ".join(cells) + " |"


def _markdown_serving(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table of servings; none if no adapter was tried."""
    if not any(row.serving for row in comparison.rows):
        return
    yield "\n| " + " | ".join(serving.TITLES) + " |"
    yield "| --- | --- |" + " ---: |" * (len(serving.TITLES) - 2)
    for line in serving.lines(comparison):
        yield "| " + " | ".join(map(escape_markdown, line)) + " |"
    yield f"\n{escape_markdown(serving.EXPLANATION)}."


def csv_text(comparison: Comparison) -> str:
    """Return one line for each row, with all digits; each metric and each end of its interval is a column."""
    metrics = [name for metric in comparison.metrics for name in (metric, f"{metric}_low", f"{metric}_high")]
    fields = [*FIELDS, *metrics, *MORE_FIELDS]
    stream = io.StringIO()
    # Texts are in quotes, because some spreadsheets would split them at semicolons.
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([_inert_formula(name) for name in fields])
    for row in comparison.rows:
        ends = {f"{name}_low": low for name, (low, _) in row.intervals.items()}
        ends |= {f"{name}_high": high for name, (_, high) in row.intervals.items()}
        values = [
            " ".join(map(str, row.seeds)) if name == "seeds" else ends.get(name, row.value(name)) for name in fields
        ]
        writer.writerow(["" if value is None else _inert_formula(value) for value in values])
    return stream.getvalue()


def json_text(comparison: Comparison) -> str:
    """Return the whole comparison as JSON; docs/comparison.schema.json describes it."""
    return json.dumps(comparison.records(), indent=1) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {"markdown": markdown, "csv": csv_text, "json": json_text}


def _inert_formula(value: object) -> object:
    """Return a value that no spreadsheet takes for a formula: a quote is put before a text that looks like one."""
    text = clean(value) if isinstance(value, str) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t")) else text
