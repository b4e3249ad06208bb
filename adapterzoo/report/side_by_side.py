"""The same test examples, as every method answered them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from rich.console import Console
from rich.text import Text

from adapterzoo.comparison import Block, Comparison
from adapterzoo.comparison.evidence import Evidence
from adapterzoo.comparison.scores import read_lines
from adapterzoo.errors import UserError
from adapterzoo.report.columns import metric_column
from adapterzoo.report.terminal import head
from adapterzoo.results.row import Row
from adapterzoo.results.store import PREDICTIONS
from adapterzoo.terminal import safe, tell

# How many lines of a text a terminal shows, and which part of its width labels may have.
LINES = 6
LABELS = 0.3
REFERENCE = "reference"

Line = Mapping[str, Any]
"""of ``predictions.jsonl``"""
Answers = Mapping[int, Line]
"""by the example's index"""


def render(comparison: Comparison, n: int, console: Console) -> None:
    """Print the first test examples, each with its reference and what every row's first seed answered.

    In a terminal, what is long is cut; where the output is piped, nothing is.

    Raises:
        UserError: no row has kept an answer.
    """
    blocks = [(block, [(one.row, _answers(one)) for one in block.evidence]) for block in comparison.blocks]
    if not any(answers for _, rows in blocks for _, answers in rows):
        raise UserError.at("--examples", "no row has kept an answer.", f"A cell keeps them in its {PREDICTIONS}.")
    for block, rows in blocks:
        _print_block(block, rows, n, console)


def _answers(evidence: Evidence) -> Answers:
    """Of the first seed that has any."""
    for result, folder in zip(evidence.results, evidence.folders, strict=True):
        lines = read_lines(folder / PREDICTIONS) if result.ok else []
        if found := {line["index"]: line for line in lines if line.get("prediction") is not None}:
            return found
    return {}


def _print_block(block: Block, rows: Sequence[tuple[Row, Answers]], n: int, console: Console) -> None:
    head(block, console)
    known = {index: line for _, answers in reversed(rows) for index, line in answers.items()}
    shown = {index: known[index] for index in sorted(known)[:n]}
    answered = [(row, answers) for row, answers in rows if answers]
    if answered:
        tell(console, _heading(answered, len(shown), len(known)), "dim")
        page = _Page(console, [row.label for row, _ in answered], list(shown))
        for index, example in shown.items():
            page.example(index, example, [(row, answers.get(index)) for row, answers in answered])
    without = [f"{row.label} (failed)" if row.status == "failed" else row.label for row, found in rows if not found]
    if without:
        tell(console, f"no answers kept: {', '.join(without)}")


def _heading(answered: Sequence[tuple[Row, Answers]], shown: int, there: int) -> str:
    metric = answered[0][0].rank_metric or ""
    scores = [line.get(metric) for _, answers in answered for line in islice(answers.values(), 1)]
    text = f"{shown} of {there} test examples"
    if any(len(row.seeds) > 1 for row, _ in answered):
        text += ", the first seed's answers"
    if any(isinstance(score, bool) for score in scores):
        return f"{text}; ✓ right, ✗ wrong ({metric_column(metric).title})"
    return f"{text}; with {metric_column(metric).title}" if any(score is not None for score in scores) else text


class _Page:
    """What stands where: the examples' numbers, right of them labels, marks and texts."""

    def __init__(self, console: Console, labels: Sequence[str], indices: Sequence[int]) -> None:
        self.console, self.cut = console, console.is_terminal
        self.number = max(len(str(index)) for index in indices) + 2
        self.label = max(_label(label).cell_len for label in (*labels, REFERENCE))
        if self.cut:
            self.label = min(self.label, max(len(REFERENCE), int(console.width * LABELS)))

    def example(self, index: int, example: Line, answers: Sequence[tuple[Row, Line | None]]) -> None:
        """Print one, and what each row answered."""
        self._print(Text(str(index).ljust(self.number), "bold"), example.get("prompt"), "dim")
        marks = [_mark(line, row.rank_metric) for row, line in answers]
        width = max(mark.cell_len for mark in marks)
        self._answer(safe(REFERENCE, "dim"), Text(" " * width), example.get("reference"))
        for (row, line), mark in zip(answers, marks, strict=True):
            mark.align("right", width)
            self._answer(_label(row.label), mark, line["prediction"] if line else None)
        self.console.print()

    def _answer(self, label: Text, mark: Text, text: object) -> None:
        label.truncate(self.label, overflow="ellipsis", pad=True)
        self._print(Text.assemble(" " * self.number, label, "  ", mark, " "), text)

    def _print(self, before: Text, text: object, style: str = "") -> None:
        """A text, its further lines below its first."""
        for line in self._lines(text, style, self.console.width - before.cell_len):
            self.console.print(Text.assemble(before, line), soft_wrap=True)
            before = Text(" " * before.cell_len)

    def _lines(self, text: object, style: str, width: int) -> list[Text]:
        """A text's own lines, cleaned; in a terminal none wider than it is, and not too many."""
        whole, width = "-" if text is None else str(text), max(width, 10)
        if self.cut and len(whole) > 2 * LINES * width:
            whole = f"{whole[: LINES * width]}\n…\n{whole[-LINES * width :]}"
        lines = [safe(line.expandtabs(4).rstrip(), style) for line in whole.splitlines()] or [safe("(empty)", "dim")]
        if not self.cut:
            return lines
        lines = [part for line in lines for part in line.wrap(self.console, width)]
        return lines if len(lines) <= LINES else [*lines[: LINES - 2], Text("…", style), lines[-1]]


def _label(text: str) -> Text:
    return safe(text.expandtabs(1))


def _mark(line: Line | None, metric: str | None) -> Text:
    """Whether an answer is right, or how good it is; nothing where that is not known."""
    score = line.get(metric) if line and metric else None
    if isinstance(score, bool):
        return Text("✓", "bold green") if score else Text("✗", "red")
    if not isinstance(score, int | float):
        return Text("")
    return Text(f"{score:.2f}" if abs(score) < 10 else f"{score:.1f}")
