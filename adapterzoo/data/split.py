"""Split the rows into train, validation and test, as the recipe names them or by shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from adapterzoo.data.rows import read_rows
from adapterzoo.data_row import SPLIT_NAMES, DataRow
from adapterzoo.errors import Problem, UserError
from adapterzoo.formats import FORMATS, Format
from adapterzoo.recipe.schema import DataSection, Split

MAX_DUPLICATES_SHOWN = 3  # further rows that are in two splits are only counted


@dataclass(frozen=True)
class Splits:
    """The rows of each split."""

    train: list[DataRow]
    validation: list[DataRow]
    test: list[DataRow]
    fingerprint: str
    """hash of the content of all rows, in order"""
    format: str
    """name of the format that the recipe gives or that was recognised"""


def load_splits(
    data: DataSection,
    say: Callable[[str], None] = lambda message: None,
    formats: Mapping[str, Format] = FORMATS,
) -> Splits:
    """Return the rows of a recipe's data in their splits.

    Args:
        data: the recipe's data section.
        say: called with messages on the rows that are left out, and on those that are in two splits.
        formats: the formats that the rows may have.

    Raises:
        UserError: the data cannot be read, a split is empty, or a row is in two splits.
    """
    section = data.split
    given = {name: value for name in SPLIT_NAMES if isinstance(value := getattr(section, name), (str, list))}
    splits: dict[str, list[DataRow]] = {}
    found: list[str] = []
    sources_read: list[list[str]] = []

    def read(value: str | list[str] | None) -> list[DataRow]:
        """Return the rows of files, of a named split of the source, or of the whole source."""
        sources, source_split = (value, None) if isinstance(value, list) else (data.sources, value)
        rows, form = read_rows(data, sources, source_split, say, formats)
        found.append(form)
        sources_read.append(sources)
        return rows

    for name, value in given.items():
        if name == "train" and any(_share(section, other) for other in SPLIT_NAMES[1:]):
            continue  # its rows are split below
        splits[name] = read(value)
    if len(splits) < len(given) or any(_share(section, name) for name in SPLIT_NAMES):
        pool = read(given.get("train"))
        shares = {name: _share(section, name) for name in SPLIT_NAMES}
        if "train" in given:
            shares["train"] = 1 - shares["validation"] - shares["test"]
        if (unused := 1 - sum(shares.values())) > 0.005:
            say(f"data: {unused:.0%} of the rows are in no split: the shares add up to {1 - unused:g}")
        source = ", ".join(data.sources) or str(given.get("train"))
        splits = {**split_rows(pool, shares, section.seed, source), **splits}
    if data.sources and data.sources not in sources_read:
        what = "is never read: data.split.train names files of its own."
        raise UserError.at("data.source", what, "Leave one of them out.")
    rows = _without_duplicates({name: splits.get(name, []) for name in SPLIT_NAMES}, data, say)
    if len(set(found)) > 1:
        what = f"the splits have different formats: {', '.join(found)}."
        raise UserError.at("data.split", what, "Set data.format and data.columns.")
    return Splits(**rows, fingerprint=fingerprint(rows.values()), format=found[0])


def _share(section: Split, name: str) -> float:
    share = getattr(section, name)
    return share if isinstance(share, float) else 0.0


def split_rows(
    rows: Sequence[DataRow], shares: Mapping[str, float], seed: int, source: str
) -> dict[str, list[DataRow]]:
    """Split the rows by a hash of their content, so that neither their order nor the machine matters.

    Rows with the same prompt, or of the same group, go to the same split, so that no test question is in training.

    Args:
        rows: the rows to split.
        shares: name of a split -> its share of the rows, from 0 to 1.
        seed: another seed puts other rows in each split.
        source: name of the source, for messages.

    Raises:
        UserError: a split with a share gets no row.
    """
    groups: dict[bytes, list[DataRow]] = {}
    for row in rows:
        group_name = (row.prompt or row.completion) if row.group is None else row.group
        key = hashlib.sha256(f"{seed}\0{group_name}".encode()).digest()
        groups.setdefault(key, []).append(row)
    ordered = [sorted(groups[key], key=lambda row: (row.turns, repr(row.more))) for key in sorted(groups)]
    held_out = shares["test"] + shares["validation"]
    # The number of rows after which each split is full. Test is filled first, then validation, then train.
    ends = {"test": round(len(rows) * shares["test"]), "validation": round(len(rows) * held_out)}
    ends["train"] = ends["validation"] + max(1, round(len(rows) * shares["train"]))
    splits: dict[str, list[DataRow]] = {name: [] for name in SPLIT_NAMES}
    count = 0
    for group in ordered:
        name = next((name for name, end in ends.items() if count < end), None)
        if name is None:
            break
        splits[name] += group
        count += len(group)
    for name in SPLIT_NAMES:
        if shares[name] and not splits[name]:
            kind = "groups" if rows and rows[0].group is not None else "different prompts"
            raise UserError.at(
                source,
                f"{len(ordered)} {kind} are too few: split.{name} = {shares[name]:g} leaves none for {name}.",
                "Give more rows, or other shares.",
            )
    return splits


def _without_duplicates(
    splits: dict[str, list[DataRow]], data: DataSection, say: Callable[[str], None]
) -> dict[str, list[DataRow]]:
    """Return the splits, with the rows that are in two of them treated as ``data.split.duplicates`` says.

    Raises:
        UserError: there are such rows, and the recipe does not say what to do with them.
    """
    splits = {**splits, "validation": _validation_without_test(splits, data, say)}
    held_out = {row: (name, row) for name in ("validation", "test") for row in splits[name]}
    repeated = [(row, *held_out[row]) for row in splits["train"] if row in held_out]
    prompts = {row.prompt for row in splits["train"]}
    known = sum(row.prompt in prompts for row in splits["test"]) if not repeated else 0
    if known and any(prompts):
        say(f"data: {known} of {len(splits['test'])} test rows have a prompt that is in train with another answer")
    if not repeated:
        return splits
    many = f"{len(repeated)} of {len(splits['train'])} training rows are in validation or test too"
    if data.split.duplicates == "error":
        shown = [
            Problem(row.place, f"is in {name} too ({other.place}).")
            for row, name, other in repeated[:MAX_DUPLICATES_SHOWN]
        ]
        hint = "data.split.duplicates: drop leaves them out of train, keep trains on them."
        raise UserError(*shown, Problem("data.split", f"{many}: the model would learn what it is tested on.", hint))
    if data.split.duplicates == "keep":
        say(f"data: {many}, and are kept")
        return splits
    say(f"data: {many}, and are left out of train")
    kept = [row for row in splits["train"] if row not in held_out]
    if not kept:
        raise UserError.at("data.split", "all training rows are in validation or test too.", "Give other files.")
    return {**splits, "train": kept}


def _validation_without_test(
    splits: Mapping[str, list[DataRow]], data: DataSection, say: Callable[[str], None]
) -> list[DataRow]:
    """Return the validation rows that are not in test, because tuning may choose settings by validation rows.

    Raises:
        UserError: some are in test, and the recipe does not say what to do with them.
    """
    rows, test = splits["validation"], set(splits["test"])
    kept = [row for row in rows if row not in test]
    if len(kept) == len(rows):
        return rows
    many = f"{len(rows) - len(kept)} of {len(rows)} validation rows are in test too"
    if data.split.duplicates == "error":
        hint = "data.split.duplicates: drop leaves them out of validation, keep leaves them in."
        raise UserError.at("data.split", f"{many}: settings would be chosen by test rows.", hint)
    say(f"data: {many}, and are {'kept' if data.split.duplicates == 'keep' else 'left out of validation'}")
    return rows if data.split.duplicates == "keep" else kept


def fingerprint(splits: Iterable[Sequence[DataRow]]) -> str:
    """Return a hash of the content of all rows, in order."""
    digest = hashlib.sha256()
    for rows in splits:
        for row in rows:
            content = [row.raw, *row.turns, *([row.more] if row.more else [])]
            digest.update(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            digest.update(b"\n")
        digest.update(b"\0")
    return digest.hexdigest()
