"""The ranking of a block's rows: their intervals, their differences, and which rows are tied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterzoo.comparison.evidence import Evidence
from adapterzoo.comparison.order import better, metric_columns
from adapterzoo.comparison.statistics import LEVEL, Difference, Seeds, differences, holm, interval, stack
from adapterzoo.metrics.registry import style
from adapterzoo.results.result import FORGETTING

Pairs = Mapping[tuple[str, str], Difference]


@dataclass(frozen=True)
class PairedRows:
    """The differences of all pairs of a block's ranked rows in one metric."""

    metric: str
    scored: dict[str, Evidence]
    """label -> evidence of each ranked row that has the metric"""
    labels: list[str]
    """labels of the rows whose scores can be paired, example by example"""
    differences: Pairs
    """the differences of all pairs of these rows, in both directions"""
    best: str
    pick_better: Callable[..., Any]
    """the function that picks the better value, ``max`` or ``min``"""

    def corrected(self) -> dict[tuple[str, str], float]:
        """Return the p-value of each pair, in both directions, corrected for all pairs."""
        pairs = [(first, second) for i, first in enumerate(self.labels) for second in self.labels[i + 1 :]]
        p_values = _corrected(self.differences, pairs)
        return p_values | {(second, first): p for (first, second), p in p_values.items()}

    def contradicts(self, first: str, second: str) -> bool:
        """Tell whether the seeds that two rows share say the opposite of the rows' scores over all their seeds."""
        difference = self.differences[first, second].value
        means = [self.scored[label].row.metrics[self.metric] for label in (first, second)]
        ahead = self.pick_better(difference, 0.0) != 0
        return difference != 0 and means[0] != means[1] and ahead is not (self.pick_better(means) == means[0])


def rank(block: Sequence[Evidence], metric: str | None, against: str | None) -> dict[str, PairedRows]:
    """Write the intervals, differences and ties of a block's rows into these rows.

    Args:
        block: the rows, which can be compared with each other.
        metric: the metric of the differences; ties are found for every metric.
        against: the label of the row that all others are compared with; the best row if None.

    Returns:
        Metric -> the differences of all pairs of rows, for each metric in which rows are ranked.
    """
    by_metric = {}
    for name in metric_columns([evidence.row for evidence in block]):
        _set_intervals(block, name)
        paired = _pair_rows(block, name)
        if paired is None:
            continue
        by_metric[name] = paired
        scored, best = paired.scored, paired.best
        p_values = {first: p for (first, second), p in paired.corrected().items() if second == best}
        # On the seeds that it shares with the best row, a row may score better. Then it is not known that the best row
        # is better, and the two are tied.
        ahead = {label for label in p_values if paired.pick_better(paired.differences[label, best].value, 0.0) != 0}
        tie_p_values = {label: 1.0 if label in ahead else p for label, p in p_values.items()}
        for label, evidence in scored.items():
            evidence.row.ties[name] = _tied(tie_p_values, label, best, list(scored))
        if name == metric and against is None:
            _set_differences(scored, paired.differences, p_values, tie_p_values, best)
        elif name == metric and against in scored:
            # The user named the reference row, so the correction is for the pairs with this row. The best row could
            # have been any of them before the run, so with it the correction is for all pairs.
            others = [label for label in paired.labels if label != against] if against in paired.labels else []
            named = _corrected(paired.differences, [(label, against) for label in others])
            p_values = {label: p for (label, _), p in named.items()}
            _set_differences(scored, paired.differences, p_values, p_values, against)
    return by_metric


def _pair_rows(block: Sequence[Evidence], metric: str) -> PairedRows | None:
    """Return the differences of all pairs of ranked rows in a metric; None if it does not rank them."""
    scored = {evidence.row.label: evidence for evidence in block if metric in evidence.row.metrics}
    ranked = {label: evidence for label, evidence in scored.items() if evidence.row.ranked}
    pick_better = better([evidence.row for evidence in block], metric)
    if not ranked or not pick_better:
        return None
    if metric == FORGETTING and len({_general_text(evidence) for evidence in ranked.values()}) > 1:
        return None
    kept = _kept_scores(scored, metric)
    right_or_wrong = _right_or_wrong(scored, kept, metric)
    kept = {label: seeds for label, seeds in kept.items() if label in ranked}
    # The table lists rows with equal scores by their labels. The first of them there is the best one here too.
    by_label = sorted(ranked.values(), key=lambda evidence: evidence.row.label)
    best = pick_better(by_label, key=lambda evidence: evidence.row.metrics[metric]).row.label
    pairs = differences(kept, right_or_wrong=right_or_wrong)
    return PairedRows(metric, ranked, list(kept), pairs, best, pick_better)


def _set_intervals(block: Sequence[Evidence], metric: str) -> None:
    """Write into each row the interval of its score, and how many test examples it is computed from."""
    scored = {evidence.row.label: evidence for evidence in block if metric in evidence.row.metrics}
    kept = _kept_scores(scored, metric)
    right_or_wrong = _right_or_wrong(scored, kept, metric)
    for label, seeds in kept.items():
        row, scores = scored[label].row, stack(seeds)
        row.examples = row.examples or (scored[label].examples(metric) if metric != FORGETTING else None)
        if ends := interval(scores, right_or_wrong=right_or_wrong):
            low, high = style(metric).bounds or ends
            row.intervals[metric] = max(low, ends[0]), min(high, ends[1])


def _right_or_wrong(scored: Mapping[str, Evidence], kept: Mapping[str, Seeds], metric: str) -> bool:
    """Tell whether every score of the rows is 0 or 1."""
    return bool(kept) and all(scored[label].right_or_wrong(metric) for label in kept)


def _kept_scores(scored: Mapping[str, Evidence], metric: str) -> dict[str, Seeds]:
    """Return label -> scores by seed, without rows that have scores for fewer examples than the others."""
    kept = {label: seeds for label, evidence in scored.items() if (seeds := evidence.seeds(metric))}
    most = max((len(scores) for seeds in kept.values() for scores in seeds.values()), default=0)
    return {label: seeds for label, seeds in kept.items() if all(len(scores) == most for scores in seeds.values())}


def _corrected(differences: Pairs, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Return the p-values of some pairs, corrected for their number."""
    # The p-value is None with a single example, which cannot show a difference.
    p_values = [1.0 if (p := differences[pair].p) is None else p for pair in pairs]
    return dict(zip(pairs, holm(p_values), strict=True))


def _tied(p_values: Mapping[str, float], label: str, reference: str, labels: Sequence[str]) -> bool | None:
    """Tell whether a row is tied with the reference row; for that row itself, whether any row is tied with it."""
    if label != reference:
        p = p_values.get(label)
        return None if p is None else p >= 1 - LEVEL
    others = [_tied(p_values, other, reference, labels) for other in labels if other != reference]
    return True if any(others) else None if None in others else False


def _general_text(evidence: Evidence) -> str:
    """Return the text that forgetting was measured on."""
    return str(evidence.results[0].recipe.get("evaluate", {}).get("general_text"))


def _set_differences(
    scored: Mapping[str, Evidence],
    pairs: Pairs,
    p_values: Mapping[str, float],
    tie_p_values: Mapping[str, float],
    reference: str,
) -> None:
    """Write into each row its difference to the reference row, the p-value, and whether the two are tied."""
    for label, evidence in scored.items():
        row, metric = evidence.row, evidence.row.rank_metric or ""
        row.tied = _tied(tie_p_values, label, reference, list(scored))
        row.p_value = p_values.get(label)
        paired = pairs.get((label, reference))
        row.difference = paired.value if paired else row.metrics[metric] - scored[reference].row.metrics[metric]
        row.difference_interval = paired.interval if paired else None
