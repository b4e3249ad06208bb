"""The rows of a block against each other: intervals, differences, and who is tied with whom."""

from __future__ import annotations

from collections.abc import Sequence

from adapterzoo.comparison.evidence import Evidence
from adapterzoo.comparison.row import better, metric_columns
from adapterzoo.comparison.statistics import LEVEL, Difference, differences, holm, interval, stack


def rank(block: Sequence[Evidence], metric: str | None, against: str | None) -> None:
    """Fill in the intervals of a block's rows, and what is known of their differences.

    Args:
        block: the rows, which can be compared.
        metric: the one whose differences are told; ties are found for each.
        against: a row's label; the best is what the others are compared with where there is no such row.
    """
    rows = [evidence.row for evidence in block]
    for name in metric_columns(rows):
        scored = {evidence.row.label: evidence for evidence in block if name in evidence.row.metrics}
        tested = {label: seeds for label, evidence in scored.items() if (seeds := evidence.seeds(name))}
        # What is of another length is not of the same examples.
        length = max((len(next(iter(seeds.values()))) for seeds in tested.values()), default=0)
        tested = {
            label: seeds for label, seeds in tested.items() if all(len(scores) == length for scores in seeds.values())
        }
        right_or_wrong = bool(tested) and all(scored[label].right_or_wrong(name) for label in tested)
        for label, seeds in tested.items():
            row = scored[label].row
            if found := interval(stack(seeds), right_or_wrong=right_or_wrong):
                row.intervals[name] = found
            row.examples = row.examples or length
        choose = better(rows, name)
        if not choose or not scored:
            continue
        best = choose(scored.values(), key=lambda evidence: evidence.row.metrics[name]).row.label
        pairs = differences(tested, right_or_wrong=right_or_wrong)
        told = against if name == metric and against in scored else None
        for label, evidence in scored.items():
            evidence.row.ties[name] = _tied(_corrected(pairs, list(tested), best), label, best, list(scored))
        if name == metric:
            _tell(pairs, scored, list(tested), told or best, named=told is not None)


Pairs = dict[tuple[str, str], Difference]


def _corrected(pairs: Pairs, labels: Sequence[str], reference: str, *, named: bool = False) -> dict[str, float]:
    """label -> p-value of its difference to a row.

    That row was named beforehand, or it is the best, which is only seen afterwards: any two rows might have come to
    be compared, and the correction is for all of those comparisons.
    """
    if named:
        family = [(label, reference) for label in labels if label != reference]
    else:
        family = [(first, second) for i, first in enumerate(labels) for second in labels[i + 1 :]]
    if reference not in labels:
        return {}
    # One example distinguishes nothing.
    found = [1.0 if (p := pairs[pair].p) is None else p for pair in family]
    corrected = dict(zip(family, holm(found), strict=True))
    return {one if two == reference else two: p for (one, two), p in corrected.items() if reference in (one, two)}


def _tied(p_values: dict[str, float], label: str, reference: str, labels: Sequence[str]) -> bool | None:
    """Whether a row cannot be told from the reference; the reference itself, whether there is any such row."""
    if label != reference:
        p = p_values.get(label)
        return None if p is None else p >= 1 - LEVEL
    others = [_tied(p_values, other, reference, labels) for other in labels if other != reference]
    return True if any(others) else None if None in others else False


def _tell(pairs: Pairs, scored: dict[str, Evidence], tested: Sequence[str], reference: str, *, named: bool) -> None:
    p_values = _corrected(pairs, tested, reference, named=named)
    for label, evidence in scored.items():
        row = evidence.row
        row.tied = _tied(p_values, label, reference, list(scored))
        if label == reference:
            row.difference, row.difference_interval = 0.0, None
        elif (found := pairs.get((label, reference))) is not None:
            row.difference, row.difference_interval = found.value, found.interval
            row.p_value = p_values.get(label)
        else:
            row.difference = row.metrics[row.rank_metric or ""] - scored[reference].row.metrics[row.rank_metric or ""]
