"""The trials of tuning, as the page shows them."""

from __future__ import annotations

from typing import Any, NamedTuple

from adapterzoo.comparison.comparison import Comparison
from adapterzoo.comparison.order import HIGHER, LOWER
from adapterzoo.results.result import Trial, Tuning


class Trials(NamedTuple):
    """The trials of a row, as the page shows them."""

    high_first: bool
    """whether the highest score is the best"""
    options: list[str]
    """options that were tuned"""
    ordered: list[Trial]
    """trials, the best first and those without a score last"""
    chosen: Trial | None


def ordered_trials(comparison: Comparison, tuning: Tuning) -> Trials:
    """Return the trials of a row, the best first."""
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


def setting(value: Any) -> str:
    """Return the value of an option, or a score, as text."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
