"""A comparison as one HTML file: table, notes, plots and trials, all of it inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from adapterzoo.comparison import Block, Comparison
from adapterzoo.ranking import HIGHER
from adapterzoo.report import notes
from adapterzoo.report.columns import COSTS, EXPLAINED, Column, cell, columns, interval_text, mark, metric_column, value
from adapterzoo.row import Row
from adapterzoo.terminal import clean, duration

# Costs that the score is plotted against, as the choice of them is worded, and how plotly writes them on an axis.
AGAINST: dict[str, tuple[str, dict[str, str]]] = {
    "trainable_params": ("trainable parameters", {"exponentformat": "B"}),
    "peak_memory_bytes": ("peak memory", {"exponentformat": "SI", "ticksuffix": "B"}),
    "train_seconds": ("training time", {}),
    "cost": ("cost of tuning, training and measuring", {}),
}
# Of a curve: a screen shows no more, and the file stays light.
POINTS = 400
Figure = dict[str, Any]


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    key: Any
    """what its column is sorted by; None stands last"""
    sign: str = ""


class Line(NamedTuple):
    """A row of a table."""

    label: str
    cells: list[Cell]
    state: str = ""


class Table(NamedTuple):
    """A table that can be sorted."""

    corner: str
    heads: list[tuple[str, bool]]
    """titles, and whether the first sorting puts the highest value on top"""
    lines: list[Line]


def html(comparison: Comparison) -> str:
    """The page, whole. It asks the network for nothing, and no script runs in it but its own.

    Args:
        comparison: what it shows; none of its texts is trusted.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    page = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda found: found if isinstance(found, Markup) else clean(found),
    )
    page.filters["digest"] = _digest
    shown = columns(comparison)
    sections = [section for block in comparison.blocks if (section := _section(comparison, block))["plots"]]
    return page.from_string((files("adapterzoo.report") / "page.html.in").read_text(encoding="utf-8")).render(
        comparison=comparison,
        model=_model(comparison.blocks[0]),
        tables=[(notes.apart(one) if one.differs else "", _table(comparison, one, shown)) for one in comparison.blocks],
        rows=list(notes.rows(comparison)),
        said=[*notes.said(comparison), *(EXPLAINED[one.name] for one in shown if one.name in EXPLAINED)],
        sections=sections,
        trials=[(row, _trials(comparison, row)) for row in comparison.rows if (row.tuning or {}).get("trials")],
        setting=_setting,
        plotly=Markup(_plotly()) if sections else "",
    )


def _digest(script: str) -> str:
    """What the page's policy knows a script by: no other one runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # what include_plotlyjs=True writes

    return str(get_plotlyjs())


def _model(block: Block) -> str:
    recipes = [result.recipe for one in block.evidence for result in one.results]
    return str(next((name for recipe in recipes if (name := recipe.get("model", {}).get("name"))), ""))


def _table(comparison: Comparison, block: Block, shown: Sequence[Column]) -> Table:
    metric = block.rows[0].rank_metric or ""
    of = {"interval": metric, "difference": metric}
    heads = [(column.title, comparison.better(of.get(column.name, column.name)) is HIGHER) for column in shown]
    lines = []
    for row in block.rows:
        texts = [cell(row, column, failed=column is shown[0]) for column in shown]
        cells = [
            Cell(text, None if text == "-" else _key(value(row, column)), mark(comparison, block, row, column))
            for text, column in zip(texts, shown, strict=True)
        ]
        lines.append(Line(row.label, cells, "" if row.status == "ok" else "failed"))
    return Table("method", heads, lines)


def _key(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else len(found) if isinstance(found, list) else found


def _trials(comparison: Comparison, row: Row) -> Table:
    """What was tried for a row, best first."""
    tuning = row.tuning or {}
    metric, trials = str(tuning.get("metric")), tuning["trials"]
    scored = [one for one in trials if one.get("score") is not None]
    taken = next((one for one in scored if one.get("settings") == tuning.get("chosen")), None)
    up = comparison.better(metric) in (HIGHER, None)
    if taken and any(one["score"] != taken["score"] for one in scored):
        # Of the validation rows there may be metrics that the table does not know: the chosen trial is the best one.
        up = taken["score"] == max(one["score"] for one in scored)
    ordered = sorted(scored, key=lambda one: float(one["score"]), reverse=up)
    ordered += [one for one in trials if one.get("score") is None]
    names = list(dict.fromkeys(name for one in trials for name in one.get("settings") or {}))
    lines = [Line(str(i), _trial(one, names), "chosen" if one is taken else "") for i, one in enumerate(ordered, 1)]
    return Table("trial", [*((name, False) for name in names), (metric, up), ("time", False), ("error", False)], lines)


def _trial(trial: dict[str, Any], names: Sequence[str]) -> list[Cell]:
    settings, score, seconds, error = (trial.get(key) for key in ("settings", "score", "seconds", "error"))
    return [
        *(Cell(_setting(found), found) for found in ((settings or {}).get(name) for name in names)),
        Cell(_setting(score), score),
        Cell("-" if seconds is None else duration(seconds), seconds),
        Cell(error or "", error or None),
    ]


def _setting(found: Any) -> str:
    return "-" if found is None else f"{found:.4g}" if isinstance(found, float) else str(found)


def _section(comparison: Comparison, block: Block) -> dict[str, Any]:
    """The plots of a block. How a trace looks is the page's business, which knows its row by the ``uid``."""
    found = {AGAINST[one.name][0]: _scatter(comparison, block, one) for one in COSTS if one.name in AGAINST}
    scatters = {choice: figure for choice, figure in found.items() if figure}
    curves = _curves(block)
    plots = [
        {"title": "Score against cost", "choices": list(scatters), "figures": list(scatters.values())},
        {"title": "Training loss", "choices": [], "figures": [curves] if curves else []},
    ]
    number = block.rows[0].block
    plots = [{"id": f"plot-{number}-{i}", **plot} for i, plot in enumerate(plots) if plot["figures"]]
    return {"number": number + 1, "rows": [clean(row.label) for row in block.rows], "plots": plots}


def _scatter(comparison: Comparison, block: Block, cost: Column) -> Figure | None:
    """The score against a cost; None where no row has both."""
    metric, (title, ticks) = block.rows[0].rank_metric or "", AGAINST[cost.name]
    scored = [(str(i), row) for i, row in enumerate(block.rows) if metric in row.metrics]
    points = [(uid, row) for uid, row in scored if row.method and value(row, cost) is not None]
    if not points:
        return None
    score, values = metric_column(metric), [value(row, cost) for _, row in points]
    scale, unit = _unit(max(values)) if cost.name == "train_seconds" else (1, "")
    # The times and memory of different machines have no better and worse.
    may_rank = cost.name == "trainable_params" or not block.costs_differ
    front = _front(comparison, [row for _, row in points], metric, cost) if may_rank else []
    better = {HIGHER: ", higher is better", LOWER: ", lower is better"}.get(comparison.better(metric), "")
    return {
        "points": [_point(uid, row, score, cost, scale) for uid, row in points],
        "front": {"x": [value(row, cost) / scale for row in front], "y": [row.metrics[metric] for row in front]},
        "bases": [
            {"name": uid, "y": row.metrics[metric], "text": _text(f"{row.label} {cell(row, score)}")}
            for uid, row in scored
            if not row.method
        ],
        "xaxis": {"title": {"text": f"{title}{unit}"}, "type": _scale(values), **ticks},
        "yaxis": {"title": {"text": _text(score.title) + better}},
        "caption": _caption(block, [row for _, row in points], front),
    }


def _point(uid: str, row: Row, score: Column, cost: Column, scale: float) -> Figure:
    mean, ends = row.metrics[score.name], row.intervals.get(score.name)
    lines = [row.label, f"{score.title} {cell(row, score)}", f"{cost.title} {cell(row, cost)}"]
    if ends:
        lines.insert(2, f"95 % {interval_text(ends)}")
    bars = {"array": [max(ends[1] - mean, 0)], "arrayminus": [max(mean - ends[0], 0)], "symmetric": False}
    return {
        "uid": uid,
        "x": [value(row, cost) / scale],
        "y": [mean],
        "text": [_text(row.label)],
        "hovertext": ["<br>".join(map(_text, lines))],
        "error_y": bars if ends else None
    }


def _front(comparison: Comparison, rows: Sequence[Row], metric: str, cost: Column) -> list[Row]:
    """The rows of which no other is both as good and as cheap, the cheapest first."""
    choose, front = comparison.better(metric), list[Row]()
    if choose is None:
        return front
    sign = -1 if choose is HIGHER else 1
    for row in sorted(rows, key=lambda row: (value(row, cost), sign * row.metrics[metric])):
        if row.status == "ok" and (not front or sign * row.metrics[metric] < sign * front[-1].metrics[metric]):
            front.append(row)
    return front
