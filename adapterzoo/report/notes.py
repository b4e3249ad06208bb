"""The sentences below a comparison, the same in every form of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.metrics.registry import style
from adapterzoo.prepare.budget import misses
from adapterzoo.report.columns import TIED, UNRANKED, difference_text
from adapterzoo.results.result import Trial, Tuning
from adapterzoo.terminal import count, counted, duration, size

if TYPE_CHECKING:
    from adapterzoo.comparison.next_steps import NextSteps, Tie

# Further reasons why rows cannot be compared are only counted; the JSON has them all.
MAX_SHOWN_REASONS = 6


class RowNote(NamedTuple):
    """A sentence about one row, or about the output folder of a run that has not finished."""

    label: str
    """label of the row, or path of the folder, which begins the sentence"""
    rest: str
    """rest of the sentence"""
    failure: bool = False

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.label + self.rest


def row_notes(comparison: Comparison) -> Iterator[RowNote]:
    """Yield sentences about single rows that the table cannot show, such as errors and trials."""
    for row in comparison.rows:
        table = f" (table {row.block + 1})" if len(comparison.blocks) > 1 else ""
        if row.error:
            yield RowNote(row.label, f"{table} failed: {row.error}", failure=True)
        for what in row.broken_rules.values():
            yield RowNote(row.label, f"{table} is not ranked, because its method broke a rule: it {what}")
        for what in row.declared_departures.values():
            yield RowNote(row.label, f"{table}, by design: it {what}")
        for problem in row.unproven:
            yield RowNote(row.label, f"{table}: {problem}: no interval, and whether the row is tied is not known")
        for file in row.damaged:
            yield RowNote(row.label, f"{table}: {file} is not what the run wrote: run the recipe again")
        for option, change in row.adjusted.items():
            yield RowNote(row.label, f"{table}, {option}: {change}")
        if misses(row.trainable_params, row.budget) and row.status == "ok":
            trained, wanted = count(row.trainable_params), count(row.budget or 0)
            yield RowNote(row.label, f"{table}: {trained} parameters, the nearest to {wanted} that is possible")
        if row.tuning:
            yield RowNote(row.label, f"{table}: {_trials_text(row.tuning)}")
    for folder, problems in comparison.damaged.items():
        for problem in problems:
            yield RowNote(folder, f": {problem.removeprefix(folder).lstrip('/')}", failure=True)
    with_results = {result.label for result in comparison.results}
    for folder, missing in comparison.unfinished.items():
        cells = [
            f"{label} (seed {', '.join(map(str, seeds))})" if label in with_results else label
            for label, seeds in missing.items()
        ]
        yield RowNote(folder, f": not finished: no result yet for {', '.join(cells)}")


def _trials_text(tuning: Tuning) -> str:
    """Return which setting was chosen, and the score of every trial."""
    trials = tuning["trials"]
    chosen = [trial for trial in trials if trial["settings"] == tuning["chosen"] and trial["score"] is not None]
    how = f"from {len(trials)} settings by {tuning['metric']} on the validation rows"
    text = f"{_settings(tuning['chosen'])} chosen {how}"
    others = sorted((trial for trial in trials if trial not in chosen), key=_sort_key)
    scores = [f"{_settings(trial['settings'], names=False)}: {_score(trial)}" for trial in others]
    if chosen:
        equal = any(trial["score"] == chosen[0]["score"] for trial in others)
        text += f" ({_score(chosen[0])}{', the lowest loss with this score' if equal else ''})"
    return text + ("; the others " + ", ".join(scores) if scores else "")


def _sort_key(trial: Trial) -> list[tuple[bool, Any]]:
    """Return a key that orders trials by their values, numbers before texts."""
    return [
        (not isinstance(value, (int, float)), value if isinstance(value, (int, float)) else str(value))
        for value in trial["settings"].values()
    ]


def _settings(settings: Mapping[str, Any], *, names: bool = True) -> str:
    values = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return " ".join(f"{name} {value}" if names else value for name, value in values.items())


def _score(trial: Trial) -> str:
    return "failed" if trial["score"] is None else f"{trial['score']:.3f}"


def why_apart(block: Block) -> str:
    """Return why a block's rows are not in the first table."""
    shown, rest = block.differs[:MAX_SHOWN_REASONS], block.differs[MAX_SHOWN_REASONS:]
    more = f"; and {len(rest)} more" if rest else ""
    return f"Not comparable with the first table: {'; '.join(shown)}{more}"


def verdict(comparison: Comparison, block: Block) -> str | None:
    """Return which row is the best, or which rows are tied; None if nothing can be said."""
    ranked = [row for row in block.rows if row.rank_metric in row.metrics and row.ranked]
    if len(ranked) < 2 or comparison.against in [row.label for row in ranked]:
        return None
    title = style(name := ranked[0].rank_metric or "").title
    paired = block.pairs.get(name)
    best = next((row for row in ranked if paired and row.label == paired.best), None)
    is_tied = best and best.ties.get(name)
    if best is None or is_tied is None:
        return f"{title}: which rows are tied is not known"
    if not is_tied:
        return f"{title}: {best.label} is the best, and no other row is tied with it"
    tied = [row.label for row in ranked if row.ties.get(name) and row is not best]
    return f"{title}: no winner; {best.label} is tied with {', '.join(tied)}"


def verdicts(comparison: Comparison) -> Iterator[str]:
    """Yield the verdict of each block that has one."""
    for number, block in enumerate(comparison.blocks, start=1):
        if (line := verdict(comparison, block)) is not None:
            yield f"table {number}: {line}" if len(comparison.blocks) > 1 else line


COSTS = {
    "trainable_params": ("the fewest parameters", count),
    "train_seconds": ("the shortest training", duration),
    "peak_memory_bytes": ("the least memory", size),
    "answer_seconds": ("the fastest answers", lambda seconds: f"{seconds:.2g} s"),
}
"""cost -> what the row with the lowest has, and how its cost is written"""


def next_steps(comparison: Comparison) -> Iterator[str]:
    """Yield a paragraph for each block with ties: which of the tied rows costs least, and what would settle the ties.

    With a row that all others are compared with, nothing is said, because the question was another one.
    """
    # Imported here because it imports numpy, which would slow down every start of the command line.
    from adapterzoo.comparison.next_steps import next_steps

    for number, block in enumerate(comparison.blocks, start=1):
        steps = next_steps(block) if comparison.against is None else None
        if steps is not None and steps.ties:
            text = " ".join(filter(None, (_cheapest(steps, block), _settling(steps, block))))
            yield f"table {number}: {text}" if len(comparison.blocks) > 1 else text


def _cheapest(steps: NextSteps, block: Block) -> str:
    """Return a sentence that says which of the tied rows costs least."""
    rows = {row.label: row for row in block.rows}
    by_label: dict[str, list[str]] = {}
    for cost, label in steps.cheapest.items():
        what, show = COSTS[cost]
        by_label.setdefault(label, []).append(f"{what} ({show(rows[label].value(cost))})")
    if not by_label:
        return ""
    return f"Of the tied rows, {'; '.join(f'{label} has {_and(what)}' for label, what in by_label.items())}."


def _settling(steps: NextSteps, block: Block) -> str:
    """Return sentences that say how many test examples or seeds would settle ties."""
    difference = difference_text(block.rows[0].rank_metric or "")
    settled = [tie for tie in steps.ties if tie.examples is not None or tie.seeds is not None]
    if not settled:
        return "No number of seeds or test examples in reach would settle the ties."
    first, last = settled[0], settled[-1]
    now = f"{counted(steps.seeds, 'seed')} and {steps.examples:,} test examples"
    text = f"To tell {first.label} from {steps.best} ({difference(first.difference)}), {now} are too few: "
    text += f"it probably takes {_either(first, steps)}."
    if last is not first:
        text += f" For {last.label} ({difference(last.difference)}) it takes {_either(last, steps)}."
    if steps.seeds == 1:
        text += " With one seed it is not known how much seeds change the scores: add --seed 1 --seed 2 first."
    return text


def _either(tie: Tie, steps: NextSteps) -> str:
    ways = [
        f"{_rounded(tie.examples):,} test examples" if tie.examples is not None else "",
        f"{tie.seeds} seeds" if tie.seeds is not None else "",
    ]
    return " or ".join(filter(None, ways))


def _rounded(number: int) -> int:
    """Return a number with two significant digits, rounded up, because it is only an estimate."""
    unit: int = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // unit) * unit


def _and(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def legend(comparison: Comparison, best: str = "*") -> Iterator[str]:
    """Yield what the signs and numbers of the table mean.

    Args:
        comparison: the comparison that the table shows.
        best: what marks the best value of a column.
    """
    if any(tied is not None for row in comparison.rows for tied in row.ties.values()):
        yield f"{best} best of its column, {TIED} tied for best (p >= .05, corrected for all pairs, Holm)"
    else:
        yield f"{best} best of its column"
    if any(not row.ranked for row in comparison.rows):
        yield f"{UNRANKED} not ranked, because the method broke a rule of the comparison"
    if comparison.against:
        yield f"differences from {comparison.against}, p corrected for the number of rows"
    yield from _intervals(comparison)
    if joint := dict.fromkeys(name for result in comparison.results for name in result.joint_metrics):
        yield f"known only for all examples together, and so without interval: {', '.join(joint)}"
    if any(_may_run_code(result.recipe) for result in comparison.results):
        yield "code that comes with the base model was allowed to run (trust_remote_code)"
    if heads := sorted({row.head_params for row in comparison.rows if row.head_params}):
        sizes = " or ".join(count(size) for size in heads)
        yield f"params: without the task's new head ({sizes} parameters), which every method trains"
    for block in comparison.blocks:
        if block.costs_differ:
            yield f"times and memory were measured on different machines ({'; '.join(block.costs_differ)})"


def _may_run_code(recipe: Mapping[str, Any]) -> bool:
    """Tell whether a recipe allows code that comes with the base model."""
    model = recipe.get("model")
    return isinstance(model, dict) and model.get("trust_remote_code") is True


def _intervals(comparison: Comparison) -> Iterator[str]:
    """Yield how many seeds and test examples the intervals and differences are computed from."""
    with_interval = [row for row in comparison.rows if row.intervals and row.method]
    if not with_interval:
        return
    seeds = sorted({len(row.seeds) for row in with_interval})
    examples = " or ".join(map(str, sorted({row.examples for row in with_interval if row.examples})))
    if seeds == [1]:
        yield f"intervals over {examples} test examples of one seed: the score of another seed may be outside"
    else:
        yield f"intervals over {' or '.join(map(str, seeds))} seeds and {examples} test examples"
        if one_seed := [row.label for row in with_interval if len(row.seeds) == 1]:
            yield f"only one seed, so the score of another seed may be outside the interval: {', '.join(one_seed)}"
    by_block = [[row for row in block.rows if row.intervals and row.method] for block in comparison.blocks]
    seed_sets = [{frozenset(row.seeds) for row in rows} for rows in by_block]
    if any(len(sets) > 1 for sets in seed_sets):
        yield (
            "rows have different seeds: a difference is over the seeds that both rows have, "
            "a score over all seeds of its row"
        )
    if any(not first & second for sets in seed_sets for first in sets for second in sets):
        yield "if two rows have no seed in common, their difference pairs any of their seeds"
