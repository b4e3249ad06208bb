"""The answers of all rows to the same test examples, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapterzoo.comparison.comparison import Block
from adapterzoo.report.columns import metric_column
from adapterzoo.report.side_by_side import Record, answers_of
from adapterzoo.terminal import clean, clean_lines

# Characters of all texts of a block together; examples that do not fit are left out.
MAX_CHARACTERS = 1_000_000
# Characters of one text; the middle of a longer one is left out.
MAX_TEXT = 2000


def answers(block: Block) -> dict[str, Any] | None:
    """Return the first test examples and what the first seed of each row answered; None if no row kept answers.

    ``answers`` of an example are numbers of its ``texts``, one for each row; -1 if the row has no answer.
    """
    of_rows = [(evidence.row, kept) for evidence in block.evidence if (kept := answers_of(evidence))]
    if not of_rows:
        return None
    known = {index: record for _, kept in reversed(of_rows) for index, record in kept.items()}
    examples, characters = list[dict[str, Any]](), 0
    for index in sorted(known):
        records = [kept.get(index) for _, kept in of_rows]
        example = _example(index, known[index], records, [row.rank_metric for row, _ in of_rows])
        characters += sum(map(len, [example["prompt"], example["reference"] or "", *example["texts"]]))
        if examples and characters > MAX_CHARACTERS:
            break
        examples.append(example)
    rows = [{"label": clean(row.label), "row": block.rows.index(row)} for row, _ in of_rows]
    metric = metric_column(of_rows[0][0].rank_metric or "").title
    several_seeds = any(len(row.seeds) > 1 for row, _ in of_rows)
    return {"rows": rows, "metric": metric, "total": len(known), "examples": examples, "seeds": several_seeds}


def _example(
    index: int, example: Record, records: Sequence[Record | None], metrics: Sequence[str | None]
) -> dict[str, Any]:
    texts: dict[str, int] = {}
    chosen = [-1 if record is None else texts.setdefault(_text(record["prediction"]), len(texts)) for record in records]
    marks = [_mark(record, metric) for record, metric in zip(records, metrics, strict=True)]
    reference = None if example.get("reference") is None else _text(example["reference"])
    prompt = _text(example.get("prompt") or "")
    return {
        "index": index, "prompt": prompt, "reference": reference,
        "texts": list(texts), "answers": chosen, "marks": marks,
    }  # fmt: skip


def _text(value: object) -> str:
    """Return a text without control characters, and without the middle of a long one."""
    text = clean_lines(str(value))
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]}\n…\n{text[-MAX_TEXT // 2 :]}"


def _mark(record: Mapping[str, Any] | None, metric: str | None) -> bool | str | None:
    """Return whether an answer is right, or its score; None if neither is known."""
    score = record.get(metric) if record and metric else None
    if isinstance(score, bool) or not isinstance(score, int | float):
        return score if isinstance(score, bool) else None
    return f"{score:.2f}" if abs(score) < 10 else f"{score:.1f}"
