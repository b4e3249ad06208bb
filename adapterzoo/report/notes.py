"""What a comparison says in words, the same below every form of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from adapterzoo.comparison import Block, Comparison
from adapterzoo.metrics.registry import style
from adapterzoo.prepare.budget import misses
from adapterzoo.results.result import Trial, Tuning
from adapterzoo.terminal import count

# Of the reasons why rows cannot be compared; all are in the JSON.
SHOWN = 6


class Line(NamedTuple):
    """A sentence about one row."""

    label: str
    rest: str
    failure: bool = False

    @property
    def text(self) -> str:
        """Both together."""
        return self.label + self.rest


def rows(comparison: Comparison) -> Iterator[Line]:
    """What is to be said of single rows."""
    for row in comparison.rows:
        table = f" (table {row.block + 1})" if len(comparison.blocks) > 1 else ""
        if row.error:
            yield Line(row.label, f"{table} failed: {row.error}", failure=True)
        for file in row.unproven:
            yield Line(row.label, f"{table}: {file}: no interval, and not known to be tied or not")
        for file in row.damaged:
            yield Line(row.label, f"{table}: {file} is not what the run wrote: run the recipe again")
        for option, change in row.adjusted.items():
            yield Line(row.label, f"{table}, {option}: {change}")
        if misses(row.trainable_params, row.budget) and row.status == "ok":
            text = f": {count(row.trainable_params)} parameters is as near to {count(row.budget or 0)} as it comes"
            yield Line(row.label, table + text)
        if row.tuning:
            yield Line(row.label, f"{table}: {_tuned(row.tuning)}")
    begun = {result.label for result in comparison.results}
    for folder, missing in comparison.unfinished.items():
        told = [
            f"{label} (seed {', '.join(map(str, seeds))})" if label in begun else label
            for label, seeds in missing.items()
        ]
        yield Line(folder, f": not finished: no result yet of {', '.join(told)}")


def _tuned(tuning: Tuning) -> str:
    """What was chosen, and how the score falls off around it."""
    trials = tuning["trials"]
    chosen = [trial for trial in trials if trial["settings"] == tuning["chosen"] and trial["score"] is not None]
    told = f"{_settings(tuning['chosen'])} chosen of {len(trials)} by {tuning['metric']} on the validation rows"
    others = sorted((trial for trial in trials if trial not in chosen), key=_order)
    scores = [f"{_settings(trial['settings'], names=False)}: {_score(trial)}" for trial in others]
    if chosen:
        equal = any(trial["score"] == chosen[0]["score"] for trial in others)
        told += f" ({_score(chosen[0])}{', the least loss of equals' if equal else ''})"
    return told + ("; the others " + ", ".join(scores) if scores else "")


def _order(trial: Trial) -> list[tuple[bool, Any]]:
    """By value, numbers before texts."""
    return [
        (not isinstance(one, (int, float)), one if isinstance(one, (int, float)) else str(one))
        for one in trial["settings"].values()
    ]


def _settings(settings: Mapping[str, Any], *, names: bool = True) -> str:
    values = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return " ".join(f"{name} {value}" if names else value for name, value in values.items())


def _score(trial: Trial) -> str:
    return "failed" if trial["score"] is None else f"{trial['score']:.3f}"


def apart(block: Block) -> str:
    """Why a block's rows are not among the first block's."""
    more = f"; and {len(block.differs) - SHOWN} more" if len(block.differs) > SHOWN else ""
    return f"Not comparable with the first table: {'; '.join(block.differs[:SHOWN])}{more}"


def verdict(comparison: Comparison, block: Block) -> str | None:
    """Who wins, or who is tied, as far as that is known."""
    ranked = [row for row in block.rows if row.rank_metric in row.metrics]
    if len(ranked) < 2 or comparison.against in [row.label for row in ranked]:
        return None
    title = style(name := ranked[0].rank_metric or "").title
    choose = comparison.better(name)
    best = choose(ranked, key=lambda row: row.metrics[name]) if choose else None
    tied_too = best.ties.get(name) if best is not None else None
    if best is None or tied_too is None:
        return f"{title}: which rows are tied is not known" if best is not None else None
    if not tied_too:
        return f"{title}: {best.label} is the best, and no other row is tied with it"
    tied = [row.label for row in ranked if row.ties.get(name) and row is not best]
    return f"{title}: no winner; {best.label} cannot be told from {', '.join(tied)}"


def verdicts(comparison: Comparison) -> Iterator[str]:
    """Those of all blocks."""
    for number, block in enumerate(comparison.blocks, start=1):
        if (line := verdict(comparison, block)) is not None:
            yield f"table {number}: {line}" if len(comparison.blocks) > 1 else line


def legend(comparison: Comparison, best: str = "*") -> Iterator[str]:
    """What the signs and figures mean, ``best`` among them."""
    if any(tied is not None for row in comparison.rows for tied in row.ties.values()):
        yield f"{best} best of its column, = not distinguishable from it (p >= .05, corrected for all pairs, Holm)"
    else:
        yield f"{best} best of its column"
    if comparison.against:
        yield f"differences to {comparison.against}, p corrected for the number of rows"
    yield from _intervals(comparison)
    for block in comparison.blocks:
        if block.costs_differ:
            yield f"times and memory are of different machines ({'; '.join(block.costs_differ)})"


def _intervals(comparison: Comparison) -> Iterator[str]:
    """What the intervals are of."""
    found = [row for row in comparison.rows if row.intervals and row.method]
    if not found:
        return
    seeds = sorted({len(row.seeds) for row in found})
    examples = sorted({row.examples for row in found if row.examples})
    many = " or ".join(map(str, examples))
    if seeds == [1]:
        yield f"intervals over {many} test examples of one seed: another seed may lie outside"
    else:
        yield f"intervals over {' or '.join(map(str, seeds))} seeds and {many} test examples"
        if one_seed := [row.label for row in found if len(row.seeds) == 1]:
            yield f"of one seed, another may lie outside: {', '.join(one_seed)}"
    rows = [[row for row in block.rows if row.intervals and row.method] for block in comparison.blocks]
    theirs = [{frozenset(row.seeds) for row in block} for block in rows]
    if any(len(block) > 1 for block in theirs):
        yield "rows have different seeds: a difference is over those that both have, a score over its own"
    if any(not one & other for block in theirs for one in block for other in block):
        yield "a difference of rows without a common seed is over any of theirs"
