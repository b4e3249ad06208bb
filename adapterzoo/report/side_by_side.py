"""The answers of all methods to the same test examples, side by side in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from rich.console import Console
from rich.text import Text

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.comparison.evidence import Evidence
from adapterzoo.errors import UserError
from adapterzoo.report.columns import metric_column
from adapterzoo.report.table import head
from adapterzoo.results.intact import read_lines
from adapterzoo.results.row import Row
from adapterzoo.results.store import PREDICTIONS
from adapterzoo.terminal import safe, tell

# Largest number of lines of a text that are shown in a terminal.
MAX_LINES = 6
# Largest share of a terminal's width that labels take.
MAX_LABEL_SHARE = 0.3
REFERENCE = "reference"

Record = Mapping[str, Any]
"""what the run wrote about one test example, in ``predictions.jsonl``"""
Answers = Mapping[int, Record]
"""index of a test example -> its record"""


def render(comparison: Comparison, n: int, console: Console) -> None:
    """Print the first ``n`` test examples, each with its reference and the answer of every row's first seed.

    Long texts are cut in a terminal, but not if the output is piped.

    Raises:
        UserError: no row has kept an answer.
    """
    blocks = [
        (block, [(evidence.row, answers_of(evidence)) for evidence in block.evidence]) for block in comparison.blocks
    ]
    if not any(answers for _, rows in blocks for _, answers in rows):
        raise UserError.at("--examples", "no row has kept an answer.", f"A cell keeps its answers in {PREDICTIONS}.")
    for block, rows in blocks:
        _print_block(block, rows, n, console)


def answers_of(evidence: Evidence) -> Answers:
    """Return the answers of the first seed that has any."""
    for result, folder in zip(evidence.results, evidence.folders, strict=True):
        records = read_lines(folder / PREDICTIONS) if result.ok else []
        if answers := {record["index"]: record for record in records if record.get("prediction") is not None}:
            return answers
    return {}


def _print_block(block: Block, rows: Sequence[tuple[Row, Answers]], n: int, console: Console) -> None:
    head(block, console)
    known = {index: record for _, answers in reversed(rows) for index, record in answers.items()}
    shown = {index: known[index] for index in sorted(known)[:n]}
    answered = [(row, answers) for row, answers in rows if answers]
    if answered:
        tell(console, _heading(answered, len(shown), len(known)), "dim")
        printer = AnswerPrinter(console, [*(row.label for row, _ in answered), REFERENCE], list(shown))
        for index, example in shown.items():
            printer.example(index, example, [(row, answers.get(index)) for row, answers in answered])
    without = [f"{row.label} (failed)" if row.status == "failed" else row.label for row, kept in rows if not kept]
    if without:
        tell(console, f"no answers kept: {', '.join(without)}")


def _heading(answered: Sequence[tuple[Row, Answers]], shown: int, total: int) -> str:
    metric = answered[0][0].rank_metric or ""
    scores = [record.get(metric) for _, answers in answered for record in islice(answers.values(), 1)]
    text = f"{shown} of {total} test examples"
    if any(len(row.seeds) > 1 for row, _ in answered):
        text += ", the first seed's answers"
    if any(isinstance(score, bool) for score in scores):
        return f"{text}; ✓ right, ✗ wrong ({metric_column(metric).title})"
    return f"{text}; with {metric_column(metric).title}" if any(score is not None for score in scores) else text


class AnswerPrinter:
    """Prints answers in aligned columns: the number of a question, then labels, marks and texts."""

    def __init__(self, console: Console, labels: Sequence[str], indices: Sequence[int]) -> None:
        self.console, self.cut = console, console.is_terminal
        self.number_width = max(len(str(index)) for index in indices) + 2
        self.label_width = max(_label(label).cell_len for label in labels)
        if self.cut:
            self.label_width = min(self.label_width, max(len(REFERENCE), int(console.width * MAX_LABEL_SHARE)))

    def example(self, index: int, example: Record, answers: Sequence[tuple[Row, Record | None]]) -> None:
        """Print an example, and what each row answered."""
        self.question(index, example.get("prompt"))
        marks = [_mark(record, row.rank_metric) for row, record in answers]
        width = max(mark.cell_len for mark in marks)
        self.answer(REFERENCE, example.get("reference"), Text(" " * width), "dim")
        for (row, record), mark in zip(answers, marks, strict=True):
            mark.align("right", width)
            self.answer(row.label, record["prediction"] if record else None, mark)
        self.console.print()

    def question(self, number: int, text: object) -> None:
        """Print a question and its number."""
        self._print(Text(str(number).ljust(self.number_width), "bold"), text, "dim")

    def answer(self, label: str, text: object, mark: Text | None = None, style: str = "") -> None:
        """Print an answer after its label, and after a mark that says how good it is."""
        shown = _label(label, style)
        shown.truncate(self.label_width, overflow="ellipsis", pad=True)
        parts = (mark, " ") if mark is not None else ()
        self._print(Text.assemble(" " * self.number_width, shown, "  ", *parts), text)

    def _print(self, before: Text, text: object, style: str = "") -> None:
        """Print a text, with its second and further lines indented like its first."""
        for line in self._lines(text, style, self.console.width - before.cell_len):
            self.console.print(Text.assemble(before, line), soft_wrap=True)
            before = Text(" " * before.cell_len)

    def _lines(self, text: object, style: str, width: int) -> list[Text]:
        """Return a text's cleaned lines; for a terminal, wrapped and without the middle of a long text."""
        whole, width = "-" if text is None else str(text), max(width, 10)
        if self.cut and len(whole) > 2 * MAX_LINES * width:
            whole = f"{whole[: MAX_LINES * width]}\n…\n{whole[-MAX_LINES * width :]}"
        lines = [safe(line.expandtabs(4).rstrip(), style) for line in whole.splitlines()] or [safe("(empty)", "dim")]
        if not self.cut:
            return lines
        lines = [part for line in lines for part in line.wrap(self.console, width)]
        return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 2], Text("…", style), lines[-1]]


def _label(text: str, style: str = "") -> Text:
    return safe(text.expandtabs(1), style)


def _mark(record: Record | None, metric: str | None) -> Text:
    """Return a sign for a right or wrong answer, or the answer's score; empty if neither is known."""
    score = record.get(metric) if record and metric else None
    if isinstance(score, bool):
        return Text("✓", "bold green") if score else Text("✗", "red")
    if not isinstance(score, int | float):
        return Text("")
    return Text(f"{score:.2f}" if abs(score) < 10 else f"{score:.1f}")
