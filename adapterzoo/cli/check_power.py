"""The lines of ``adapterzoo check`` on the smallest differences between methods that a run can show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapterzoo.metrics.registry import right_or_wrong
from adapterzoo.terminal import counted

if TYPE_CHECKING:
    from adapterzoo.prepare.prepared import Prepared


def power_lines(prepared: Prepared, difference: float | None) -> Iterator[str]:
    """Yield lines on the differences that the test examples and seeds of a run can show."""
    from adapterzoo.comparison import power

    labels = list(dict.fromkeys(cell.label for cell in prepared.cells))
    seeds = len({cell.seed for cell in prepared.method_cells}) or 1
    examples, methods = len(prepared.encoded.test), len({cell.label for cell in prepared.method_cells})
    # The numbers of comparisons to correct for: with the row named before the run, and between any two rows.
    comparisons = [max(pairs, 1) for pairs in (len(labels) - 1, len(labels) * (len(labels) - 1) // 2)]
    metric = prepared.recipe.evaluate.metrics[0]
    shares = right_or_wrong(metric)
    unit = "" if shares else " standard deviations (of the difference between two methods' scores of an example)"
    smallest = [power.smallest_difference(examples, seeds, methods, pairs, shares=shares) for pairs in comparisons]
    named, any_two = ("" if value is None else f"of {value:.3f}{unit}" for value in smallest)
    shown = f"{counted(examples, 'test example')} and {counted(seeds, 'seed')} can show"
    assumed = f" if two methods disagree on {power.DISAGREE:.0%} of the answers, or on more if the difference needs it"
    if named:
        yield (
            f"{shown} a difference {named} in {metric} to a row named before the run (--against), "
            f"and {any_two or 'none'} between any two of {len(labels)} rows"
        )
        yield f"{power.POWER:.0%} of such runs show a difference of that size{assumed if shares else ''}"
    else:
        yield f"{shown} no difference in {metric}, however large"
    if seeds == 1:
        yield "with one seed, intervals are over the test examples only: the score of another seed may be outside"
    if difference:
        named, any_two = (_needed(difference, seeds, methods, pairs, shares) for pairs in comparisons)
        yield (
            f"a difference of {difference:g} to a row named before the run needs {named}; "
            f"between any two rows, it needs {any_two}"
        )


def _needed(difference: float, seeds: int, rows: int, comparisons: int, shares: bool) -> str:
    """Return how many test examples show a difference; if it takes more seeds than are given, also how many seeds."""
    from adapterzoo.comparison.power import examples_needed

    for number in range(seeds, 1000):
        if (examples := examples_needed(difference, number, rows, comparisons, shares=shares)) is not None:
            return f"{examples:,} test examples" + (f" and {number} seeds" if number > seeds else "")
    return "at least a thousand seeds"
