"""A comparison as one HTML file with its table, notes, plots and trials, which fetches nothing from the network."""

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

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.comparison.order import HIGHER, LOWER
from adapterzoo.report import notes
from adapterzoo.report.columns import COSTS, Column, cell, columns, interval_text, mark, metric_column, value
from adapterzoo.report.pareto_front import pareto_front
from adapterzoo.results.result import Trial, Tuning
from adapterzoo.results.row import Row
from adapterzoo.terminal import clean, duration

# Costs that the score can be plotted against: name of the choice in the page, and how plotly writes such numbers.
AGAINST: dict[str, tuple[str, dict[str, str]]] = {
    "trainable_params": ("trainable parameters", {"exponentformat": "B"}),
    "peak_memory_bytes": ("peak memory", {"exponentformat": "SI", "ticksuffix": "B"}),
    "train_seconds": ("training time", {}),
    "cost": ("cost of tuning, training and measuring", {}),
}
# Number of points of a plotted curve, each the mean of one part of it. A screen cannot show more of them.
MAX_POINTS = 300
# Steps of the running mean, which smooths the jumps that the batches cause in every curve.
WINDOW = 10
Figure = dict[str, Any]
"""a plot, as the script in the page reads it"""


class Trials(NamedTuple):
    """The trials of a row, as the page shows them."""

    high_first: bool
    """whether the highest score is the best"""
    options: list[str]
    """options that were tuned"""
    ordered: list[Trial]
    """trials, the best first and those without a score last"""
    chosen: Trial | None


def html(comparison: Comparison) -> str:
    """Return the page, which loads nothing from the network and runs only its own scripts.

    Args:
        comparison: what the page shows; none of its texts is trusted.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs  # returns the script that plotly puts into its own pages

    page = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
    )
    page.filters["digest"] = _digest
    page.globals.update(why_apart=notes.why_apart, cell=cell, mark=mark)
    page.globals.update(sort_key=_sort_key, setting=_setting, duration=duration)
    shown = columns(comparison)
    sections = [section for block in comparison.blocks if (section := _section(comparison, block))["plots"]]
    explanations = [column.explanation for column in shown if column.explanation]
    template = (files("adapterzoo.report") / "page.html.in").read_text(encoding="utf-8")
    return page.from_string(template).render(
        comparison=comparison,
        model=_model(comparison.blocks),
        columns=[(column, _high_first(comparison, column)) for column in shown],
        row_notes=list(notes.row_notes(comparison)),
        notes=[*notes.verdicts(comparison), *notes.next_steps(comparison), *notes.legend(comparison), *explanations],
        tuned=[
            (row, _trials(comparison, row.tuning)) for row in comparison.rows if row.tuning and row.tuning["trials"]
        ],
        sections=sections,
        figures={plot["id"]: list(plot["choices"].values()) for section in sections for plot in section["plots"]},
        plotly=Markup(get_plotlyjs()) if sections else "",  # noqa: S704  # plotly's own script
    )


def _digest(script: str) -> str:
    """Return the hash by which the page's security policy allows a script; a browser runs no other script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _model(blocks: Sequence[Block]) -> str:
    """Return the name of the base model; empty if the rows have different ones."""
    recipes = [result.recipe for block in blocks for evidence in block.evidence for result in evidence.results]
    names = {str(name) for recipe in recipes if (name := recipe.get("model", {}).get("name"))}
    return names.pop() if len(names) == 1 else ""


def _high_first(comparison: Comparison, column: Column) -> bool:
    """Tell whether the first click on a column's title puts the highest value on top."""
    metric = next((row.rank_metric for row in comparison.rows if row.rank_metric), "")
    return comparison.better(metric if column.name in ("interval", "difference") else column.name) is HIGHER


def _sort_key(row: Row, column: Column, text: str) -> Any:
    """Return the value that a cell of the table is sorted by; None if the cell is empty, which puts it last."""
    content = None if text == "-" else value(row, column)
    return content[0] if isinstance(content, tuple) else len(content) if isinstance(content, list) else content


def _trials(comparison: Comparison, tuning: Tuning) -> Trials:
    trials, better = tuning["trials"], comparison.better(tuning["metric"])
    scored = [(trial["score"], trial["loss"] or 0.0, trial) for trial in trials if trial["score"] is not None]
    chosen = next((trial for *_, trial in scored if trial["settings"] == tuning["chosen"]), None)
    if chosen and any(score != chosen["score"] for score, *_ in scored):
        # The table may not have this metric, but the chosen trial is known to be the best.
        better = HIGHER if chosen["score"] == max(score for score, *_ in scored) else LOWER
    sign = 1 if better is LOWER else -1
    ordered = [trial for *_, trial in sorted(scored, key=lambda entry: (sign * entry[0], entry[1]))]
    options = list(dict.fromkeys(name for trial in trials for name in trial["settings"]))
    return Trials(sign < 0, options, ordered + [trial for trial in trials if trial["score"] is None], chosen)


def _setting(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _section(comparison: Comparison, block: Block) -> dict[str, Any]:
    """Return the plots of a block and their legend, as the template needs them."""
    figures_of_costs = {
        AGAINST[cost.name][0]: _scatter(comparison, block, cost) for cost in COSTS if cost.name in AGAINST
    }
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
    if not points:
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
    if block.costs_differ and cost.name != "trainable_params":
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
