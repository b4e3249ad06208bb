"""A first recipe for a data file: what is in it is looked at, what was guessed is said in comments. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path

from adapterzoo.data.cells import text_of
from adapterzoo.data.row import BadRowError
from adapterzoo.data.sources import open_source
from adapterzoo.errors import UserError
from adapterzoo.formats import FORMATS, recognise
from adapterzoo.recipe import DataSection

# Rows that are looked at.
LOOKED = 200
MODEL = "smollm2-135m"
# What people call the two sides, likeliest first.
QUESTIONS = ("question", "prompt", "instruction", "input", "query", "text", "dialogue", "document", "source", "title")
ANSWERS = ("answer", "completion", "response", "output", "label", "class", "category", "summary", "target", "reply")


def starter(source: str, model: str = MODEL) -> str:
    """The text of a recipe for a data source.

    Raises:
        UserError: the source cannot be read, or has no rows.
    """
    section = DataSection(source=source)
    delimiter = None
    try:
        table = open_source([source], section)
    except UserError as error:
        delimiter = _delimiter(error)
        if delimiter is None:
            raise
        table = open_source([source], section.model_copy(update={"delimiter": delimiter}))
    rows = [cells for _, cells in islice(table.rows, LOOKED)]
    if not rows:
        raise UserError.at(source, "has column names but no rows.")
    columns = table.columns
    name, mapped, why = _format(columns, rows)
    lines = [f"  source: {_quoted(source)}"]
    if delimiter:
        lines.append(f"  delimiter: {json.dumps(delimiter)}")
    lines.append(f"  format: {name:<22} # {why}")
    if mapped:
        pairs = ", ".join(f"{key}: {_quoted(column)}" for key, column in mapped.items())
        lines.append(f"  columns: {{{pairs}}}")
    answers = [_text(cells.get(mapped.get(FORMATS[name].answer or "", FORMATS[name].answer or ""))) for cells in rows]
    labels = sorted(set(filter(None, answers)))
    classifies = name != "text" and 2 <= len(labels) <= 20 and len(answers) >= 5 * len(labels)
    if name == "text":
        metrics = "[loss, perplexity]"
    elif classifies:
        metrics = "[accuracy, macro_f1, loss]"
    else:
        long = labels and sum(map(len, labels)) / len(labels) > 60
        metrics = "[rouge, loss, perplexity]" if long else "[exact_match, loss, perplexity]"
    shots = "  shots: 0                     # nothing is asked: no examples to show\n" if name == "text" else ""
    found = f"# {', '.join(columns)}: the columns; the first {len(rows)} rows were looked at."
    if classifies:
        shown = [*map(_one_line, labels[:8]), *(["..."] if len(labels) > 8 else [])]
        found += f"\n# The answers look like labels: {', '.join(shown)}"
    template = (files("adapterzoo") / "starter.yaml.in").read_text(encoding="utf-8")
    return template.format(
        title=_one_line(source),
        found=found,
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-._") or "my-data",
        model=_quoted(model),
        data="\n".join(lines),
        metrics=metrics,
        shots=shots,
    )


def _format(columns: Sequence[str], rows: Sequence[dict[str, object]]) -> tuple[str, dict[str, str], str]:
    """The format, which columns it takes, and why."""
    if found := recognise(columns):
        return found[0], {}, "recognised from the columns"
    lower = {column.lower().strip(): column for column in reversed(columns)}
    if folded := recognise(list(lower)):
        form = FORMATS[folded[0]]
        taken = [name for name in (*form.columns, *form.optional) if name in lower]
        return folded[0], {name: lower[name] for name in taken}, "recognised from the columns"
    for column in columns:  # a conversation under another name
        first = next((cells[column] for cells in rows if isinstance(cells.get(column), list) and cells[column]), None)
        if isinstance(first, list) and isinstance(first[0], dict):
            name = "sharegpt" if {"from", "value"} <= set(first[0]) else "messages"
            return name, {FORMATS[name].columns[0]: column}, f"'{_one_line(column)}' holds conversations"
    texts = [column for column in columns if any(_text(cells.get(column)) for cells in rows)]
    if not texts:
        raise UserError.at("DATA", f"has no column of text (its columns: {', '.join(columns) or 'none'}).")
    if len(texts) == 1:
        return "text", {"text": texts[0]}, "guessed: there is one column of text"
    answer = next((lower[name] for name in ANSWERS if name in lower and lower[name] in texts), None)
    question = next((lower[name] for name in QUESTIONS if name in lower and lower[name] not in (answer, None)), None)
    # Numbers are what a row is called by, and what is asked stands before what is answered.
    in_order = sorted(texts, key=lambda column: all(_text(cells.get(column)).isdigit() for cells in rows))
    question = question or next(column for column in in_order if column != answer)
    answer = answer or next(column for column in in_order if column != question)
    return "qa", {"question": question, "answer": answer}, "guessed: correct the columns if they are not these"


def _text(value: object) -> str:
    try:
        return text_of(value, "").strip()
    except BadRowError:
        return ""


def _delimiter(error: UserError) -> str | None:
    found = re.search(r'data\.delimiter: "(\\t|.)"', str(error))
    return None if found is None else found[1].replace("\\t", "\t")


def _quoted(text: str) -> str:
    """As YAML: bare where nothing in it can be misread."""
    plain = re.fullmatch(r"[A-Za-z_./~][\w./ -]*", text) and not text.endswith(" ")
    words = ("true", "false", "yes", "no", "null", "on", "off", "~")
    return text if plain and text.lower() not in words else json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())
