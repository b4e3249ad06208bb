"""A comparison as one HTML file: table, notes, plots and trials, all of it inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from adapterzoo.comparison import Block, Comparison
from adapterzoo.report import notes
from adapterzoo.report.columns import COSTS, Column, cell, columns, interval_text, mark, metric_column, value
from adapterzoo.report.front import front
from adapterzoo.results.result import Trial, Tuning
from adapterzoo.results.row import HIGHER, LOWER, Row
from adapterzoo.terminal import clean, duration

# What a score is plotted against, as the choice is worded, and how plotly writes such numbers on an axis.
AGAINST: dict[str, tuple[str, dict[str, str]]] = {
    "trainable_params": ("trainable parameters", {"exponentformat": "B"}),
    "peak_memory_bytes": ("peak memory", {"exponentformat": "SI", "ticksuffix": "B"}),
    "train_seconds": ("training time", {}),
    "cost": ("cost of tuning, training and measuring", {}),
}
# Of a curve, each the mean of its part: a screen shows no more, and the file stays light.
POINTS = 300
# Of a running mean: rows are of the same batches, and so have the same jumps.
WINDOW = 10
Figure = dict[str, Any]


class Trials(NamedTuple):
    """What was tried for a row."""

    high_first: bool
    options: list[str]
    ordered: list[Trial]
    """best first, those without a score last"""
    chosen: Trial | None


def html(comparison: Comparison) -> str:
    """The page, whole. It asks the network for nothing, and no script runs in it but its own.

    Args:
        comparison: what it shows; none of its texts is trusted.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs  # what include_plotlyjs=True writes

    page = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda found: found if isinstance(found, Markup) else clean(found),
    )
    page.filters["digest"] = _digest
    page.globals.update(apart=notes.apart, cell=cell, mark=mark, key=_key, setting=_setting, time=duration)
    shown = columns(comparison)
    sections = [section for block in comparison.blocks if (section := _section(comparison, block))["plots"]]
    explained = [one.explanation for one in shown if one.explanation]
    template = (files("adapterzoo.report") / "page.html.in").read_text(encoding="utf-8")
    return page.from_string(template).render(
        comparison=comparison,
        model=_model(comparison.blocks),
        columns=[(column, _high_first(comparison, column)) for column in shown],
        rows=list(notes.rows(comparison)),
        said=[*notes.verdicts(comparison), *notes.legend(comparison), *explained],
        tuned=[
            (row, _trials(comparison, row.tuning)) for row in comparison.rows if row.tuning and row.tuning["trials"]
        ],
        sections=sections,
        figures={plot["id"]: list(plot["choices"].values()) for section in sections for plot in section["plots"]},
        plotly=Markup(get_plotlyjs()) if sections else "",
    )


def _digest(script: str) -> str:
    """What the page's policy knows a script by: no other one runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _model(blocks: Sequence[Block]) -> str:
    """The one that all were trained on, as far as there is one."""
    recipes = [result.recipe for block in blocks for one in block.evidence for result in one.results]
    names = {str(name) for recipe in recipes if (name := recipe.get("model", {}).get("name"))}
    return names.pop() if len(names) == 1 else ""


def _high_first(comparison: Comparison, column: Column) -> bool:
    """Whether the first sorting by a column puts the highest value on top."""
    metric = next((row.rank_metric for row in comparison.rows if row.rank_metric), "")
    return comparison.better(metric if column.name in ("interval", "difference") else column.name) is HIGHER


def _key(row: Row, column: Column, text: str) -> Any:
    """What a cell is sorted by; None stands last."""
    found = None if text == "-" else value(row, column)
    return found[0] if isinstance(found, tuple) else len(found) if isinstance(found, list) else found


def _trials(comparison: Comparison, tuning: Tuning) -> Trials:
    trials, better = tuning["trials"], comparison.better(tuning["metric"])
    scored = [(one["score"], one["loss"] or 0.0, one) for one in trials if one["score"] is not None]
    chosen = next((one for *_, one in scored if one["settings"] == tuning["chosen"]), None)
    if chosen and any(score != chosen["score"] for score, *_ in scored):
        # The table may not have this metric, but the chosen trial is known to be the best.
        better = HIGHER if chosen["score"] == max(score for score, *_ in scored) else LOWER
    sign = 1 if better is LOWER else -1
    ordered = [one for *_, one in sorted(scored, key=lambda one: (sign * one[0], one[1]))]
    options = list(dict.fromkeys(name for one in trials for name in one["settings"]))
    return Trials(sign < 0, options, ordered + [one for one in trials if one["score"] is None], chosen)


def _setting(found: Any) -> str:
    return "-" if found is None else f"{found:.4g}" if isinstance(found, float) else str(found)


def _section(comparison: Comparison, block: Block) -> dict[str, Any]:
    """The plots of a block."""
    found = {AGAINST[one.name][0]: _scatter(comparison, block, one) for one in COSTS if one.name in AGAINST}
    scatters = {choice: figure for choice, figure in found.items() if figure}
    curves = _curves(block)
    plots = [
        {"title": "Score against cost", "ask": "against", "choices": scatters},
        {"title": "Training loss", "ask": "shown", "choices": curves},
    ]
    plots = [{"id": f"plot-{block.rows[0].block}-{i}", **plot} for i, plot in enumerate(plots) if plot["choices"]]
    figures = [figure for choices in (scatters, curves) for figure in choices.values()]
    drawn = {one["row"] for figure in figures for one in figure["data"] + figure["bases"]}
    legend = [{"row": i, "label": row.label, "base": not row.method} for i, row in enumerate(block.rows) if i in drawn]
    return {"number": block.rows[0].block + 1, "plots": plots, "legend": legend}


def _scatter(comparison: Comparison, block: Block, cost: Column) -> Figure | None:
    """The score against a cost, by the number of the row; None where no row has both."""
    metric, (title, ticks) = block.rows[0].rank_metric or "", AGAINST[cost.name]
    scored = {i: row for i, row in enumerate(block.rows) if metric in row.metrics}
    points = {i: row for i, row in scored.items() if row.method and value(row, cost) is not None}
    if not points:
        return None
    score, costs = metric_column(metric), [value(row, cost) for row in points.values()]
    scale, unit = _unit(max(costs)) if cost.name == "train_seconds" else (1, "")
    direction = "higher" if comparison.better(metric) is HIGHER else "lower"
    front, axis = (
        _front(comparison, block, points, cost),
        _axis([x / scale for x in costs], _short if unit else cost.show),
    )
    bases = {i: row for i, row in scored.items() if not row.method}
    return {
        "data": [_point(i, row, score, cost, scale) for i, row in points.items()],
        "front": front,
        "bases": [
            {"row": i, "y": row.metrics[metric], "text": _text(f"{row.label} {cell(row, score)}")}
            for i, row in bases.items()
        ],
        "xaxis": {"title": {"text": f"{title}{unit}"}, **ticks, **axis},
        "yaxis": {"title": {"text": f"{_text(score.title)}, {direction} is better"}},
        "caption": _caption(block, points, front),
    }


def _point(number: int, row: Row, score: Column, cost: Column, scale: float) -> Figure:
    mean, ends = row.metrics[score.name], row.intervals.get(score.name)
    lines = [row.label, f"{score.title} {cell(row, score)}", f"{cost.title} {cell(row, cost)}"]
    if ends:
        lines[1] += f" (95 %: {interval_text(ends)})"
    bars = {"array": [max(ends[1] - mean, 0)], "arrayminus": [max(mean - ends[0], 0)]} if ends else {"visible": False}
    place = {"x": [value(row, cost) / scale], "y": [mean], "error_y": bars}
    return {"row": number, **place, "text": [_text(row.label)], "hovertext": ["<br>".join(map(_text, lines))]}


def _front(comparison: Comparison, block: Block, points: dict[int, Row], cost: Column) -> list[int]:
    if block.costs_differ and cost.name != "trainable_params":
        return []  # the times and memory of different machines have no better and worse
    metric = block.rows[0].rank_metric or ""
    sign = -1 if comparison.better(metric) is HIGHER else 1
    return front({i: (value(row, cost), sign * row.metrics[metric]) for i, row in points.items()})


def _caption(block: Block, points: dict[int, Row], front: Sequence[int]) -> str:
    """A plot in words."""
    said = []
    if front:
        labels = ", ".join(points[i].label for i in front)
        said.append(f"On the line (no other is as good for less, or better for as much): {labels}.")
    if any(row.intervals for row in points.values()):
        said.append("Bars: 95 % intervals.")
    if missing := [row.label for i, row in enumerate(block.rows) if row.method and i not in points]:
        said.append(f"Not shown, a value is missing: {', '.join(missing)}.")
    return clean(" ".join(said))


def _curves(block: Block) -> dict[str, Figure]:
    """The loss by step, as it was logged and smoothed; none where no row has any."""
    figures = {}
    for choice, window in {"as logged": 1, f"mean of the last {WINDOW}": WINDOW}.items():
        lines = [line for i, row in enumerate(block.rows) if (line := _line(i, row, window))]
        if lines:
            loss = _axis([y for line in lines for y in line["y"]], _short)
            axes = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "loss"}, **loss}}
            figures[choice] = {"data": lines, "bases": [], **axes, "caption": "Of the first seed."}
    return figures


def _line(number: int, row: Row, window: int) -> Figure | None:
    found = [
        (one["step"], one["loss"]) for one in row.history if "step" in one and math.isfinite(one.get("loss", math.nan))
    ]
    if len(found) < window or not row.method:
        return None
    steps, losses = np.array(found).T
    means = np.convolve(losses, np.full(window, 1 / window), "valid")
    parts = min(len(means), POINTS)
    xs = [round(float(part.mean())) for part in np.array_split(steps[window - 1 :], parts)]
    ys = [float(f"{part.mean():.3g}") for part in np.array_split(means, parts)]
    return {"row": number, "x": xs, "y": ys, "name": _text(row.label)}


def _axis(values: Sequence[float], show: Callable[[float], str]) -> Figure:
    """Logarithmic where the values span more than one power of ten: plotly itself would label few of its ticks."""
    low, high = min(values), max(values)
    if low <= 0 or high <= 10 * low:
        return {"type": "linear"}
    powers, digits = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1), (1, 2, 5)
    ticks = [digit * 10.0**power for power in powers for digit in (digits if high < 1000 * low else (1,))]
    return {"type": "log", "tickvals": ticks, "ticktext": [re.sub(r"\.0+(?=\D|$)", "", show(tick)) for tick in ticks]}


def _short(number: float) -> str:
    return f"{number:g}"


def _unit(longest: float) -> tuple[int, str]:
    """In what times are plotted."""
    return (1, ", seconds") if longest < 180 else (60, ", minutes") if longest < 10_800 else (3600, ", hours")


def _text(text: str) -> str:
    """As plotly shows it as it is: to it, ``<b>`` and ``<a href>`` are markup, and a ``$`` begins a formula."""
    return escape(clean(text), quote=False).replace("$", "&#36;")
