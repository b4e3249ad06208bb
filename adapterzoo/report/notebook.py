"""A comparison as a table in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from adapterzoo.comparison import Comparison
from adapterzoo.comparison.comparison import Block
from adapterzoo.report import notes
from adapterzoo.report.columns import BEST, TIED, cell, columns, mark
from adapterzoo.terminal import clean

MEANING = {BEST: "best of its column", TIED: "tied for best"}


def html(comparison: Comparison) -> str:
    """Return the tables of all blocks and the notes below them, with the marks of the table in the terminal."""
    parts, explanations = list[str](), [*notes.legend(comparison)]
    for part in comparison.parts():
        for block in part.blocks:
            parts += _table(part, block)
        explanations += [column.explanation for column in columns(part) if column.explanation]
    sentences = [
        *(note.text for note in notes.row_notes(comparison)),
        *notes.verdicts(comparison),
        *notes.next_steps(comparison),
        "; ".join(dict.fromkeys(explanations)),
    ]
    return "".join([*parts, *(f"<p>{_text(sentence)}</p>" for sentence in sentences)])


def _table(comparison: Comparison, block: Block) -> Iterator[str]:
    """Yield the HTML of a block's table."""
    shown = columns(comparison)
    if block.differs:
        yield f"<p>{_text(notes.why_apart(block))}</p>"
    yield "<table><thead><tr><th>method</th>"
    yield "".join(f"<th>{_text(column.title)}</th>" for column in shown)
    yield "</tr></thead><tbody>"
    for row in block.rows:
        yield f"<tr><th>{_text(row.label)}</th>"
        for column in shown:
            text, sign = _text(cell(row, column, failed=column is shown[0])), mark(comparison, block, row, column)
            meaning = f' title="{MEANING[sign]}"' if sign in MEANING else ""
            yield f"<td{meaning}>{f'<b>{text}</b>' if sign == BEST else text}{escape(sign)}</td>"
        yield "</tr>"
    yield "</tbody></table>"


def _text(text: str) -> str:
    return escape(clean(text))
