"""Find labels that no method can learn, because only test rows have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from adapterzoo.errors import Problem
from adapterzoo.metrics.registry import metrics as known_metrics
from adapterzoo.tasks.contract import Rows

MAX_UNKNOWN_LABELS = 5  # further labels that only test rows have are counted but not named
MAX_LEARNED_LABELS = 10  # number of labels of the training rows that the hint lists


def label_of(metrics: Sequence[str]) -> Callable[[str], str] | None:
    """Return how the metrics find the label that a text names; None if no metric compares labels."""
    compared = [known_metrics()[name] for name in metrics if name in known_metrics()]
    return next((metric.label for metric in compared if metric.label), None)


def unknown_labels(
    rows: Rows, label: Callable[[str], str], key: str, answers: Iterable[str] | None = None
) -> list[Problem]:
    """Return problems for the test labels that no training row has.

    Args:
        rows: the rows of each split.
        label: returns the label that a row's answer names.
        key: key of the recipe by which the labels are compared.
        answers: the answers of the training rows, if they are known already.
    """
    learned = {label(answer) for answer in answers or (row.completion for row in rows.train)}
    unknown = {label(row.completion): row for row in rows.test if label(row.completion) not in learned}
    problems = [Problem(row.place, f"its label '{row.completion}' is in no training row.") for row in unknown.values()]
    shown = problems[:MAX_UNKNOWN_LABELS]
    if shown:
        what = f"{len(unknown)} labels are only in the test rows: no method can know them."
        more = ["..."] if len(learned) > MAX_LEARNED_LABELS else []
        labels = ", ".join([*sorted(learned)[:MAX_LEARNED_LABELS], *more])
        hint = f"Correct them, give more rows, or measure something else. Training rows have: {labels}."
        shown.append(Problem(key, what, hint))
    return shown
