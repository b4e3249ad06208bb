"""Train, validation and test: by shares, or as given; the same on any machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapterzoo.data.rows import read_rows
from adapterzoo.errors import Problem, UserError
from adapterzoo.recipe.schema import DataSection, Split
from adapterzoo.row import PARTS, Row

# Of the rows that are in two parts.
SHOWN = 3


@dataclass(frozen=True)
class Splits:
    """The rows of each part, and the hash of what they hold."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    fingerprint: str
    format: str
    """the one that was named or recognised"""


def load_splits(data: DataSection, say: Callable[[str], None] = lambda message: None) -> Splits:
    """The rows of a recipe's data, in their parts.

    Raises:
        UserError: the data cannot be read, a part ends up empty, or a row is in two parts.
    """
    split = data.split
    given = {name: named for name in PARTS if isinstance(named := getattr(split, name), (str, list))}
    parts: dict[str, list[Row]] = {}
    formats: list[str] = []
    used: list[list[str]] = []

    def read(named: str | list[str] | None) -> list[Row]:
        """A part's rows: of files of its own, of a split of the source, or of the whole source."""
        names, one = (named, None) if isinstance(named, list) else (data.sources, named)
        rows, form = read_rows(data, names, one, say)
        formats.append(form)
        used.append(names)
        return rows

    for name, named in given.items():
        if name == "train" and any(_share(split, other) for other in PARTS[1:]):
            continue  # the others are taken from it
        parts[name] = read(named)
    if len(parts) < len(given) or any(_share(split, name) for name in PARTS):
        pool = read(given.get("train"))
        shares = {name: _share(split, name) for name in PARTS}
        if "train" in given:
            shares["train"] = 1 - shares["validation"] - shares["test"]
        if (left := 1 - sum(shares.values())) > 0.005:
            say(f"data: {left:.0%} of the rows are in no part: the shares add up to {1 - left:g}")
        parts = {**split_rows(pool, shares, split.seed, ", ".join(data.sources) or str(given.get("train"))), **parts}
    if data.sources and data.sources not in used:
        what = "is never read: data.split.train names files of its own."
        raise UserError.at("data.source", what, "Leave one of them out.")
    rows = _without_repeats({name: parts.get(name, []) for name in PARTS}, data, say)
    if len(set(formats)) > 1:
        what = f"the parts are of several formats: {', '.join(formats)}."
        raise UserError.at("data.split", what, "Say which, with data.format and data.columns.")
    return Splits(**rows, fingerprint=fingerprint(rows.values()), format=formats[0])


def _share(split: Split, name: str) -> float:
    share = getattr(split, name)
    return share if isinstance(share, float) else 0.0


def split_rows(rows: Sequence[Row], shares: Mapping[str, float], seed: int, source: str) -> dict[str, list[Row]]:
    """Share out the rows by a hash of their content: the same on any machine, in whatever order they come.

    Rows with the same prompt, or of the same group, go to the same part: no test question is seen in training.

    Raises:
        UserError: a part that has a share ends up without a row.
    """
    groups: dict[bytes, list[Row]] = {}
    for row in rows:
        related = (row.prompt or row.completion) if row.group is None else row.group
        key = hashlib.sha256(f"{seed}\0{related}".encode()).digest()
        groups.setdefault(key, []).append(row)
    ordered = [sorted(groups[key], key=lambda row: row.turns) for key in sorted(groups)]
    both = shares["test"] + shares["validation"]
    ends = {"test": round(len(rows) * shares["test"]), "validation": round(len(rows) * both)}
    ends["train"] = ends["validation"] + max(1, round(len(rows) * shares["train"]))
    parts: dict[str, list[Row]] = {name: [] for name in PARTS}
    taken = 0
    for group in ordered:
        name = next((part for part, end in ends.items() if taken < end), None)
        if name is None:
            break
        parts[name] += group
        taken += len(group)
    for name in PARTS:
        if shares[name] and not parts[name]:
            what = "groups" if rows and rows[0].group is not None else "different prompts"
            raise UserError.at(
                source,
                f"{len(ordered)} {what} are too few: split.{name} = {shares[name]:g} leaves none for {name}.",
                "Give more rows, or other shares.",
            )
    return parts


def _without_repeats(
    parts: dict[str, list[Row]], data: DataSection, say: Callable[[str], None]
) -> dict[str, list[Row]]:
    """Rows of a part that are in a later one too: an error, or left out of the earlier part, or said.

    Raises:
        UserError: there are some, and the recipe does not say what to do with them.
    """
    parts = {**parts, "validation": _apart(parts, data, say)}
    elsewhere = {row: (name, row) for name in ("validation", "test") for row in parts[name]}
    repeated = [(row, *elsewhere[row]) for row in parts["train"] if row in elsewhere]
    prompts = {row.prompt for row in parts["train"]}
    again = sum(row.prompt in prompts for row in parts["test"]) if not repeated else 0
    if again and any(prompts):
        say(f"data: {again} of {len(parts['test'])} test rows have a prompt that is in train with another answer")
    if not repeated:
        return parts
    many = f"{len(repeated)} of {len(parts['train'])} training rows are in validation or test too"
    if data.split.duplicates == "error":
        shown = [Problem(row.place, f"is in {name} too ({other.place}).") for row, name, other in repeated[:SHOWN]]
        hint = "data.split.duplicates: drop leaves them out of train, keep lets them be."
        raise UserError(*shown, Problem("data.split", f"{many}: what is measured has been learned.", hint))
    if data.split.duplicates == "keep":
        say(f"data: {many}, and are kept")
        return parts
    say(f"data: {many}, and are left out of train")
    kept = [row for row in parts["train"] if row not in elsewhere]
    if not kept:
        raise UserError.at("data.split", "all training rows are in validation or test too.", "Give other files.")
    return {**parts, "train": kept}


def _apart(parts: Mapping[str, list[Row]], data: DataSection, say: Callable[[str], None]) -> list[Row]:
    """The validation rows, by which settings may be chosen, without those of test.

    Raises:
        UserError: there are such, and the recipe does not say what to do with them.
    """
    rows, test = parts["validation"], set(parts["test"])
    kept = [row for row in rows if row not in test]
    if len(kept) == len(rows):
        return rows
    many = f"{len(rows) - len(kept)} of {len(rows)} validation rows are in test too"
    if data.split.duplicates == "error":
        hint = "data.split.duplicates: drop leaves them out of validation, keep lets them be."
        raise UserError.at("data.split", f"{many}: what is chosen by them has seen the test.", hint)
    say(f"data: {many}, and are {'kept' if data.split.duplicates == 'keep' else 'left out of validation'}")
    return rows if data.split.duplicates == "keep" else kept


def fingerprint(parts: Iterable[Sequence[Row]]) -> str:
    """The hash of what the rows of some parts hold, in their order."""
    whole = hashlib.sha256()
    for part in parts:
        for row in part:
            whole.update(json.dumps([row.raw, *row.turns], ensure_ascii=False).encode("utf-8", "surrogatepass"))
            whole.update(b"\n")
        whole.update(b"\0")
    return whole.hexdigest()
