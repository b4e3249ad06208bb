"""The plots of the page: the score against costs, and the training loss; plotly draws them in the browser."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.comparison.order import HIGHER
from adapterzoo.report.columns import COSTS, Column, cell, interval_text, metric_column, value
from adapterzoo.report.pareto_front import pareto_front
from adapterzoo.results.result import FORGETTING
from adapterzoo.results.row import Row
from adapterzoo.terminal import clean

# Costs that the score can be plotted against: name of the choice in the page, and how plotly writes such numbers.
AGAINST: dict[str, tuple[str, dict[str, str]]] = {
    "trainable_params": ("trainable parameters", {"exponentformat": "B"}),
    "peak_memory_bytes": ("peak memory", {"exponentformat": "SI", "ticksuffix": "B"}),
    "train_seconds": ("training time", {}),
    "answer_seconds": ("seconds for one answer", {}),
    "cost": ("cost of tuning, training and measuring", {}),
    FORGETTING: ("forgetting: rise of the loss on general text", {}),
}
# Number of points of a plotted curve, each the mean of one part of it. A screen cannot show more of them.
MAX_POINTS = 300
# Steps of the running mean, which smooths the jumps that the batches cause in every curve.
WINDOW = 10
Figure = dict[str, Any]
"""a plot, as the script in the page reads it"""


def section(comparison: Comparison, block: Block) -> dict[str, Any]:
    """Return the plots of a block and their legend, as the template needs them."""
    costs = [cost for cost in (*COSTS, metric_column(FORGETTING)) if cost.name in AGAINST]
    figures_of_costs = {AGAINST[cost.name][0]: _scatter(comparison, block, cost) for cost in costs}
    scatters = {choice: figure for choice, figure in figures_of_costs.items() if figure}
    curves = _curves(block)
    plots = [
        {"title": "Score against cost", "ask": "against", "choices": scatters},
        {"title": "Training loss", "ask": "shown", "choices": curves},
    ]
    plots = [{"id": f"plot-{block.rows[0].block}-{i}", **plot} for i, plot in enumerate(plots) if plot["choices"]]
    figures = [figure for choices in (scatters, curves) for figure in choices.values()]
    drawn = {trace["row"] for figure in figures for trace in figure["data"] + figure["bases"]}
    legend = [{"row": i, "label": row.label, "base": not row.method} for i, row in enumerate(block.rows) if i in drawn]
    return {"number": block.rows[0].block + 1, "plots": plots, "legend": legend}


def _scatter(comparison: Comparison, block: Block, cost: Column) -> Figure | None:
    """Return a plot of the score against a cost; None if no method has both."""
    metric, (title, ticks) = block.rows[0].rank_metric or "", AGAINST[cost.name]
    scored = {i: row for i, row in enumerate(block.rows) if metric in row.metrics}
    points = {i: row for i, row in scored.items() if row.method and value(row, cost) is not None}
    if not points or cost.name == metric:
        return None
    score, costs = metric_column(metric), [value(row, cost) for row in points.values()]
    scale, unit = _unit(max(costs)) if cost.name == "train_seconds" else (1, "")
    direction = "higher" if comparison.better(metric) is HIGHER else "lower"
    front = _front(comparison, block, points, cost)
    axis = _axis([x / scale for x in costs], _short if unit else cost.show)
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
    """Return the point of a row with its interval; ``scale`` is the number of seconds in the unit of the cost."""
    mean, ends = row.metrics[score.name], row.intervals.get(score.name)
    lines = [row.label, f"{score.title} {cell(row, score)}", f"{cost.title} {cell(row, cost)}"]
    if ends:
        lines[1] += f" (95 %: {interval_text(ends)})"
    bars = {"array": [max(ends[1] - mean, 0)], "arrayminus": [max(mean - ends[0], 0)]} if ends else {"visible": False}
    place = {"x": [value(row, cost) / scale], "y": [mean], "error_y": bars}
    return {"row": number, **place, "text": [_text(row.label)], "hovertext": ["<br>".join(map(_text, lines))]}


def _front(comparison: Comparison, block: Block, points: dict[int, Row], cost: Column) -> list[int]:
    """Return the numbers of the rows on the Pareto front, the cheapest first."""
    if block.costs_differ and cost.name not in ("trainable_params", FORGETTING):
        return []  # times and memory of different machines cannot be compared
    metric = block.rows[0].rank_metric or ""
    sign = -1 if comparison.better(metric) is HIGHER else 1
    ranked = {i: row for i, row in points.items() if row.ranked}
    return pareto_front({i: (value(row, cost), sign * row.metrics[metric]) for i, row in ranked.items()})


def _caption(block: Block, points: dict[int, Row], front: Sequence[int]) -> str:
    """Return the sentences below a plot of the score against a cost."""
    sentences = []
    if front:
        labels = ", ".join(points[i].label for i in front)
        sentences.append(
            f"On the line (no other method is as good at a lower cost, or better at the same cost): {labels}."
        )
    if any(row.intervals for row in points.values()):
        sentences.append("Bars: 95 % intervals.")
    if missing := [row.label for i, row in enumerate(block.rows) if row.method and i not in points]:
        sentences.append(f"Not shown because a value is missing: {', '.join(missing)}.")
    return clean(" ".join(sentences))


def _curves(block: Block) -> dict[str, Figure]:
    """Return the plots of the loss by step, as logged and smoothed; empty if no row has kept its loss."""
    figures = {}
    for choice, window in {"as logged": 1, f"mean of the last {WINDOW}": WINDOW}.items():
        lines = [line for i, row in enumerate(block.rows) if (line := _line(i, row, window))]
        if lines:
            loss = _axis([y for line in lines for y in line["y"]], _short)
            axes = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "loss"}, **loss}}
            figures[choice] = {"data": lines, "bases": [], **axes, "caption": "Loss of the first seed."}
    return figures


def _line(number: int, row: Row, window: int) -> Figure | None:
    """Return the curve of a row, each point the mean of ``window`` steps; None if the row has fewer steps."""
    points = [
        (entry["step"], entry["loss"])
        for entry in row.history
        if "step" in entry and math.isfinite(entry.get("loss", math.nan))
    ]
    if len(points) < window or not row.method:
        return None
    steps, losses = np.array(points).T
    means = np.convolve(losses, np.full(window, 1 / window), "valid")
    parts = min(len(means), MAX_POINTS)
    xs = [round(float(part.mean())) for part in np.array_split(steps[window - 1 :], parts)]
    ys = [float(f"{part.mean():.3g}") for part in np.array_split(means, parts)]
    return {"row": number, "x": xs, "y": ys, "name": _text(row.label)}


def _axis(values: Sequence[float], show: Callable[[float], str]) -> Figure:
    """Return an axis, logarithmic if the values are positive and span more than a factor of ten.

    A logarithmic axis gets its ticks here, because plotly would label only few of them.
    """
    low, high = min(values), max(values)
    if low <= 0 or high <= 10 * low:
        return {"type": "linear"}
    powers, digits = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1), (1, 2, 5)
    ticks = [digit * 10.0**power for power in powers for digit in (digits if high < 1000 * low else (1,))]
    return {"type": "log", "tickvals": ticks, "ticktext": [re.sub(r"\.0+(?=\D|$)", "", show(tick)) for tick in ticks]}


def _short(number: float) -> str:
    return f"{number:g}"


def _unit(longest: float) -> tuple[int, str]:
    """Return the unit for plotted times: the number of its seconds, and the text after the title of the axis."""
    return (1, ", seconds") if longest < 180 else (60, ", minutes") if longest < 10_800 else (3600, ", hours")


def _text(text: str) -> str:
    """Escape a text for plotly, which reads ``<b>`` and ``<a href>`` as markup and ``$`` as the start of a formula."""
    return escape(clean(text), quote=False).replace("$", "&#36;")
