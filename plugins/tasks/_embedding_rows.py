"""The data formats of embeddings, and what is wrong with their rows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from adapterzoo import Problem
from adapterzoo.data_row import SPLIT_NAMES, BadRowError, DataRow, Places, Turn
from adapterzoo.formats import Format
from adapterzoo.formats.cell_text import text_of
from adapterzoo.tasks.contract import Rows

Shape = Literal["pairs", "triplets", "scored pairs"]
NEGATIVE = "negative"  # key of the negative in DataRow.more
SCORED = "scored"  # key in DataRow.more that says that a row's answer is a score
MAX_QUOTED = 60  # number of letters of a text that a message shows
FIRST_ROWS = 100_000  # of a split, in which anchors are looked for that every text is right for
MAX_SHOWN = 5  # further rows with the same problem are only counted
DROP_HINT = "Correct it, or leave such rows out with data.bad_rows: drop."


@dataclass(frozen=True)
class Found(Format):
    """A format of a text, a text that is to be found with it, and perhaps one that is not."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the anchor and the positive."""
        anchor, positive = self.text(cells, "anchor"), self.text(cells, "positive")
        if anchor == positive:
            raise BadRowError("its anchor and its positive are the same.", DROP_HINT)
        return [Turn("user", anchor), Turn("assistant", positive)]

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, Hashable]:
        """Return the negative, if the row has one."""
        negative = text_of(cells.get(NEGATIVE), NEGATIVE).strip()
        for name in ("positive", "anchor"):
            if negative == self.text(cells, name):
                raise BadRowError(f"its {name} and its negative are the same.", DROP_HINT)
        return {NEGATIVE: negative} if negative else {}


@dataclass(frozen=True)
class ScoredPair(Format):
    """A format of two texts and a number that is higher the more alike they are."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the two texts, and the score as the answer."""
        first, second, score = self.columns
        texts = [Turn("user", self.text(cells, name)) for name in (first, second)]
        written = text_of(cells.get(score), score).strip()
        if not _is_finite(written):
            raise BadRowError(f"its score '{written}' is not a number.", DROP_HINT)
        return [*texts, Turn("assistant", written)]

    def more(self, cells: Mapping[str, Any]) -> Mapping[str, Hashable]:
        """Return that the answer is a score."""
        return {SCORED: True}


FORMATS: dict[str, Format] = {
    "pair": Found(
        "a text, a text that is found with it, and perhaps one that is not",
        ("anchor", "positive"),
        ("negative",),
        answer="positive",
    ),
    "scored_pair": ScoredPair("two texts, and how alike they are", ("sentence1", "sentence2", "score"), answer="score"),
}


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def shape_of(rows: Rows) -> Shape:
    """Return what the rows are, by the first one."""
    names = {name for name, _ in rows.train[0].more}
    return "scored pairs" if SCORED in names else "triplets" if NEGATIVE in names else "pairs"


def texts_of(row: DataRow) -> tuple[str, ...]:
    """Return the texts of a row that are embedded: anchor, positive and negative, or the two that have a score."""
    more = dict(row.more)
    if SCORED in more:
        return tuple(turn.content for turn in row.turns[:-1])
    negative = more.get(NEGATIVE)
    return (row.prompt, row.completion) if negative is None else (row.prompt, row.completion, str(negative))


def retrieval_problems(rows: Rows) -> list[Problem]:
    """Return the problems of rows of which only some have a negative, and of splits with only one text to find."""
    without = Places()
    for row in chain(rows.train, rows.validation, rows.test):
        if not row.more:
            without.add(row.place)
    having = len(rows.train) + len(rows.validation) + len(rows.test) - without.count
    if without.count and having:
        what = f"it has no negative; {without.count} rows have none, and {having} have one."
        return [Problem(without.first, what, "Give one to every row, or to none.")]
    problems = []
    for split in SPLIT_NAMES:
        sure = _sure(getattr(rows, split))
        if sure is not None:
            what = f"all texts of {split} are right for '{sure[:MAX_QUOTED]}': every model finds one."
            problems.append(Problem("data", what, f"Give {split} rows with other positives, or negatives."))
    return problems


def _sure(rows: Sequence[DataRow]) -> str | None:
    """Return an anchor for which all texts are right; None if there is none.

    Of many rows the first are enough, if they have other texts for each of their anchors; all rows are read if not.
    """
    some = rows if len(rows) <= FIRST_ROWS else rows[:FIRST_ROWS]
    right: dict[str, set[str]] = {}
    candidates = set[str]()
    for anchor, *others in map(texts_of, some):
        right.setdefault(anchor, set()).add(others[0])
        candidates.update(others)
    sure = next((anchor for anchor, own in right.items() if not candidates - own - {anchor}), None)
    if sure is None or some is rows:
        return sure
    own = {texts_of(row)[1] for row in rows if row.prompt == sure}
    return sure if all(text in own or text == sure for row in rows for text in texts_of(row)[1:]) else None


def score_problems(rows: Rows, loss: str) -> list[Problem]:
    """Return what is wrong with scores: all the same, or not what the loss needs."""
    problems = []
    if loss == "cosine":
        far, hint = 0, "Scale the scores, or set task.loss to cosent, which needs only their order."
        for row in chain(rows.train, rows.validation, rows.test):
            if abs(float(row.completion)) > 1:
                far += 1
                if far <= MAX_SHOWN:
                    what = f"its score is {row.completion}, and the loss cosine learns a cosine, from -1 to 1."
                    problems.append(Problem(row.place, what, hint))
        if far > MAX_SHOWN:
            problems.append(Problem("data", f"{far - MAX_SHOWN} more rows have such a score.", hint))
    for split in SPLIT_NAMES:
        scores = (float(row.completion) for row in getattr(rows, split))
        first = next(scores, None)
        if first is not None and all(score == first for score in scores):
            what = f"all rows of {split} have the same score: there is nothing to order."
            problems.append(Problem("data", what, f"Give {split} rows with different scores."))
    return problems
