"""The rows of a block against each other: intervals, differences, and who is tied with whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapterzoo.comparison.evidence import Evidence
from adapterzoo.comparison.scores import BOUNDS
from adapterzoo.comparison.statistics import LEVEL, Difference, Seeds, differences, holm, interval, stack
from adapterzoo.results.result import FORGETTING
from adapterzoo.results.row import better, metric_columns

Pairs = Mapping[tuple[str, str], Difference]


def rank(block: Sequence[Evidence], metric: str | None, against: str | None) -> None:
    """Fill in the intervals of a block's rows, and what is known of their differences.

    Args:
        block: the rows, which can be compared.
        metric: the one whose differences are told; ties are found for each.
        against: the label of the row that the others are compared with; None stands for the best.
    """
    rows = [evidence.row for evidence in block]
    for name in metric_columns(rows):
        scored = {evidence.row.label: evidence for evidence in block if name in evidence.row.metrics}
        tested = _tested(scored, name)
        right_or_wrong = bool(tested) and all(scored[label].right_or_wrong(name) for label in tested)
        for label, seeds in tested.items():
            row, scores = scored[label].row, stack(seeds)
            row.examples = row.examples or (scored[label].examples(name) if name != FORGETTING else None)
            if found := interval(scores, right_or_wrong=right_or_wrong):
                low, high = BOUNDS.get(name, found)
                row.intervals[name] = max(low, found[0]), min(high, found[1])
        if name == FORGETTING and len({_general_text(evidence) for evidence in scored.values()}) > 1:
            continue
        choose = better(rows, name)
        if not choose:
            continue
        best = choose(scored.values(), key=lambda evidence: evidence.row.metrics[name]).row.label
        pairs = differences(tested, right_or_wrong=right_or_wrong)
        p_values = _corrected(pairs, list(tested), best)
        # Of the seeds that both have, the best by all may be behind: then it is not known to be better.
        behind = {label for label in p_values if choose(pairs[label, best].value, 0.0)}
        known = {label: 1.0 if label in behind else p for label, p in p_values.items()}
        for label, evidence in scored.items():
            evidence.row.ties[name] = _tied(known, label, best, list(scored))
        if name == metric and against is None:
            _tell(scored, pairs, p_values, known, best)
        elif name == metric and against in scored:
            named = _corrected(pairs, list(tested), against, named=True)
            _tell(scored, pairs, named, named, against)


def _tested(scored: Mapping[str, Evidence], metric: str) -> dict[str, Seeds]:
    """The scores of each row that has kept them; what is of another length is not of the same examples."""
    found = {label: seeds for label, evidence in scored.items() if (seeds := evidence.seeds(metric))}
    longest = max((len(scores) for seeds in found.values() for scores in seeds.values()), default=0)
    return {label: seeds for label, seeds in found.items() if all(len(one) == longest for one in seeds.values())}


def _corrected(pairs: Pairs, labels: Sequence[str], reference: str, *, named: bool = False) -> dict[str, float]:
    """label -> p-value of its difference to a row.

    That row was named beforehand, or it is the best, which is only seen afterwards: any two rows might have come to
    be compared, and the correction is for all of those comparisons.
    """
    if reference not in labels:
        return {}
    if named:
        family = [(label, reference) for label in labels if label != reference]
    else:
        family = [(first, second) for i, first in enumerate(labels) for second in labels[i + 1 :]]
    # One example distinguishes nothing.
    found = [1.0 if (p := pairs[pair].p) is None else p for pair in family]
    corrected = dict(zip(family, holm(found), strict=True))
    return {one if two == reference else two: p for (one, two), p in corrected.items() if reference in (one, two)}


def _tied(p_values: Mapping[str, float], label: str, reference: str, labels: Sequence[str]) -> bool | None:
    """Whether a row cannot be told from the reference; of the reference itself, whether there is any such row."""
    if label != reference:
        p = p_values.get(label)
        return None if p is None else p >= 1 - LEVEL
    others = [_tied(p_values, other, reference, labels) for other in labels if other != reference]
    return True if any(others) else None if None in others else False


def _general_text(evidence: Evidence) -> str:
    """Which text forgetting was measured on."""
    return str(evidence.results[0].recipe.get("evaluate", {}).get("general_text"))


def _tell(
    scored: Mapping[str, Evidence],
    pairs: Pairs,
    p_values: Mapping[str, float],
    known: Mapping[str, float],
    reference: str,
) -> None:
    """Write into each row how it differs from one, and whether it is known to."""
    for label, evidence in scored.items():
        row, metric = evidence.row, evidence.row.rank_metric or ""
        row.tied = _tied(known, label, reference, list(scored))
        row.p_value = p_values.get(label)
        found = pairs.get((label, reference))
        row.difference = found.value if found else row.metrics[metric] - scored[reference].row.metrics[metric]
        row.difference_interval = found.interval if found else None
