"""The ranking of a block's rows: their intervals, their differences, and which rows are tied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapterzoo.comparison.evidence import Evidence
from adapterzoo.comparison.order import better, metric_columns
from adapterzoo.comparison.statistics import LEVEL, Difference, Seeds, differences, holm, interval, stack
from adapterzoo.metrics.registry import style
from adapterzoo.results.result import FORGETTING

Pairs = Mapping[tuple[str, str], Difference]


def rank(block: Sequence[Evidence], metric: str | None, against: str | None) -> None:
    """Write the intervals, differences and ties of a block's rows into these rows.

    Args:
        block: the rows, which can be compared with each other.
        metric: the metric of the differences; ties are found for every metric.
        against: the label of the row that all others are compared with; the best row if None.
    """
    rows = [evidence.row for evidence in block]
    for name in metric_columns(rows):
        scored = {evidence.row.label: evidence for evidence in block if name in evidence.row.metrics}
        kept = _kept_scores(scored, name)
        right_or_wrong = bool(kept) and all(scored[label].right_or_wrong(name) for label in kept)
        for label, seeds in kept.items():
            row, scores = scored[label].row, stack(seeds)
            row.examples = row.examples or (scored[label].examples(name) if name != FORGETTING else None)
            if ends := interval(scores, right_or_wrong=right_or_wrong):
                low, high = style(name).bounds or ends
                row.intervals[name] = max(low, ends[0]), min(high, ends[1])
        scored = {label: evidence for label, evidence in scored.items() if evidence.row.ranked}
        kept = {label: seeds for label, seeds in kept.items() if label in scored}
        if not scored:
            continue
        if name == FORGETTING and len({_general_text(evidence) for evidence in scored.values()}) > 1:
            continue
        pick_better = better(rows, name)
        if not pick_better:
            continue
        best = pick_better(scored.values(), key=lambda evidence: evidence.row.metrics[name]).row.label
        pairs = differences(kept, right_or_wrong=right_or_wrong)
        p_values = _corrected(pairs, list(kept), best)
        # On the seeds that it shares with the best row, a row may score better. Then it is not known that the best row
        # is better, and the two are tied.
        ahead = {label for label in p_values if pick_better(pairs[label, best].value, 0.0) != 0}
        tie_p_values = {label: 1.0 if label in ahead else p for label, p in p_values.items()}
        for label, evidence in scored.items():
            evidence.row.ties[name] = _tied(tie_p_values, label, best, list(scored))
        if name == metric and against is None:
            _set_differences(scored, pairs, p_values, tie_p_values, best)
        elif name == metric and against in scored:
            p_values = _corrected(pairs, list(kept), against, named=True)
            _set_differences(scored, pairs, p_values, p_values, against)


def _kept_scores(scored: Mapping[str, Evidence], metric: str) -> dict[str, Seeds]:
    """Return label -> scores by seed, without rows that have scores for fewer examples than the others."""
    kept = {label: seeds for label, evidence in scored.items() if (seeds := evidence.seeds(metric))}
    most = max((len(scores) for seeds in kept.values() for scores in seeds.values()), default=0)
    return {label: seeds for label, seeds in kept.items() if all(len(scores) == most for scores in seeds.values())}


def _corrected(pairs: Pairs, labels: Sequence[str], reference: str, *, named: bool = False) -> dict[str, float]:
    """Return label -> corrected p-value of its difference to the reference row.

    Args:
        pairs: the differences of all pairs of rows.
        labels: the labels of the rows.
        reference: the label of the reference row.
        named: whether the user named the reference row. If not, it is the best row. Before the run any row could have
            become the best one, so the correction is for the comparisons of all pairs.
    """
    if reference not in labels:
        return {}
    if named:
        family = [(label, reference) for label in labels if label != reference]
    else:
        family = [(first, second) for i, first in enumerate(labels) for second in labels[i + 1 :]]
    # The p-value is None with a single example, which cannot show a difference.
    p_values = [1.0 if (p := pairs[pair].p) is None else p for pair in family]
    corrected = dict(zip(family, holm(p_values), strict=True))
    return {
        first if second == reference else second: p
        for (first, second), p in corrected.items()
        if reference in (first, second)
    }


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
