"""Split the rows into train, validation and test, as the recipe names them or by shares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterzoo.data.row_content import DIGEST_BYTES, NUMPY_DIGEST, is_in, sorted_positions, text_digest
from adapterzoo.data.rows import read_rows
from adapterzoo.data.stored_rows import content_digests, contents, prompt_digests, select, sorted_by_content
from adapterzoo.data_row import SPLIT_NAMES, DataRow
from adapterzoo.errors import Problem, UserError
from adapterzoo.formats import FORMATS, Format
from adapterzoo.recipe.schema import DataSection, Split

if TYPE_CHECKING:
    import numpy

MAX_DUPLICATES_SHOWN = 3  # further rows that are in two splits are only counted


@dataclass(frozen=True)
class Splits:
    """The rows of each split."""

    train: Sequence[DataRow]
    validation: Sequence[DataRow]
    test: Sequence[DataRow]
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
    splits: dict[str, Sequence[DataRow]] = {}
    found: list[str] = []
    sources_read: list[list[str]] = []

    def read(value: str | list[str] | None) -> Sequence[DataRow]:
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
    count_known_prompts(rows["train"], rows["test"], say)
    if len(set(found)) > 1:
        what = f"the splits have different formats: {', '.join(found)}."
        raise UserError.at("data.split", what, "Set data.format and data.columns.")
    return Splits(**rows, fingerprint=fingerprint(rows.values()), format=found[0])


def _share(section: Split, name: str) -> float:
    share = getattr(section, name)
    return share if isinstance(share, float) else 0.0


def split_rows(
    rows: Sequence[DataRow], shares: Mapping[str, float], seed: int, source: str
) -> dict[str, Sequence[DataRow]]:
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
    order, starts = _grouped(rows, seed)
    held_out = shares["test"] + shares["validation"]
    # The number of rows after which each split is full. Test is filled first, then validation, then train.
    ends = {"test": round(len(rows) * shares["test"]), "validation": round(len(rows) * held_out)}
    ends["train"] = ends["validation"] + max(1, round(len(rows) * shares["train"]))
    splits: dict[str, Sequence[DataRow]] = {}
    first = 0
    for name, end in ends.items():
        # A group belongs to the split if that is not full when the group begins.
        after = next(iter(starts[starts.searchsorted(end) :]), len(rows))
        splits[name] = select(rows, order[first:after])
        first = after
    for name in SPLIT_NAMES:
        if shares[name] and not splits[name]:
            kind = "groups" if any(row.group is not None for row in rows) else "different prompts"
            raise UserError.at(
                source,
                f"{len(starts)} {kind} are too few: split.{name} = {shares[name]:g} leaves none for {name}.",
                "Give more rows, or other shares.",
            )
    return {name: splits[name] for name in SPLIT_NAMES}


def _grouped(rows: Sequence[DataRow], seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the positions of all rows, group after group, and for each group the place of its first row among them.

    The groups are in the order of a hash, and the rows of a group in that of their content.
    """
    import numpy

    keys = bytearray()
    for row in rows:
        group_name = (row.prompt or row.completion) if row.group is None else row.group
        keys += hashlib.sha256(f"{seed}\0{group_name}".encode()).digest()[:DIGEST_BYTES]
    order = sorted_positions(keys)
    ordered = numpy.frombuffer(keys, NUMPY_DIGEST)[order]
    starts = numpy.flatnonzero(numpy.append(True, ordered[1:] != ordered[:-1]))
    ends = numpy.append(starts[1:], len(rows))
    for group in numpy.flatnonzero(ends - starts > 1):
        members = slice(starts[group], ends[group])
        order[members] = sorted_by_content(rows, order[members])
    return order, starts


def _without_duplicates(
    splits: dict[str, Sequence[DataRow]], data: DataSection, say: Callable[[str], None]
) -> dict[str, Sequence[DataRow]]:
    """Return the splits, with the rows that are in two of them treated as ``data.split.duplicates`` says.

    Raises:
        UserError: there are such rows, and the recipe does not say what to do with them.
    """
    import numpy

    splits = {**splits, "validation": _validation_without_test(splits, data, say)}
    train, *held_out = (content_digests(splits[name]) for name in SPLIT_NAMES)
    is_repeated = is_in(train, numpy.concatenate(held_out))
    repeated = int(is_repeated.sum())
    if not repeated:
        return splits
    many = f"{repeated} of {len(splits['train'])} training rows are in validation or test too"
    if data.split.duplicates == "error":
        shown = [
            Problem(splits["train"][position].place, f"is in {_also_in(splits, train[position], held_out)}.")
            for position in is_repeated.nonzero()[0][:MAX_DUPLICATES_SHOWN]
        ]
        hint = "data.split.duplicates: drop leaves them out of train, keep trains on them."
        raise UserError(*shown, Problem("data.split", f"{many}: the model would learn what it is tested on.", hint))
    if data.split.duplicates == "keep":
        say(f"data: {many}, and are kept")
        return splits
    say(f"data: {many}, and are left out of train")
    kept = select(splits["train"], (~is_repeated).nonzero()[0])
    if not kept:
        raise UserError.at("data.split", "all training rows are in validation or test too.", "Give other files.")
    return {**splits, "train": kept}


def count_known_prompts(train: Sequence[DataRow], test: Sequence[DataRow], say: Callable[[str], None]) -> None:
    """Say how many test rows have a prompt that is in train with another answer, but are not in train themselves."""
    prompts = prompt_digests(train)
    is_known = is_in(prompt_digests(test), prompts) & ~is_in(content_digests(test), content_digests(train))
    if is_known.any() and (prompts != text_digest("")).any():
        say(f"data: {is_known.sum()} of {len(test)} test rows have a prompt that is in train with another answer")


def _also_in(splits: Mapping[str, Sequence[DataRow]], digest: bytes, digests: Sequence[numpy.ndarray]) -> str:
    """Return where in validation or test a row is, by its digest and those of the two splits."""
    found = {name: (own == digest).nonzero()[0] for name, own in zip(SPLIT_NAMES[1:], digests, strict=True)}
    name = "test" if len(found["test"]) else "validation"
    return f"{name} too ({splits[name][found[name][-1]].place})"


def _validation_without_test(
    splits: Mapping[str, Sequence[DataRow]], data: DataSection, say: Callable[[str], None]
) -> Sequence[DataRow]:
    """Return the validation rows that are not in test, because tuning may choose settings by validation rows.

    Raises:
        UserError: some are in test, and the recipe does not say what to do with them.
    """
    rows = splits["validation"]
    in_test = is_in(content_digests(rows), content_digests(splits["test"]))
    if not in_test.any():
        return rows
    many = f"{in_test.sum()} of {len(rows)} validation rows are in test too"
    if data.split.duplicates == "error":
        hint = "data.split.duplicates: drop leaves them out of validation, keep leaves them in."
        raise UserError.at("data.split", f"{many}: settings would be chosen by test rows.", hint)
    say(f"data: {many}, and are {'kept' if data.split.duplicates == 'keep' else 'left out of validation'}")
    return rows if data.split.duplicates == "keep" else select(rows, (~in_test).nonzero()[0])


def fingerprint(splits: Iterable[Sequence[DataRow]]) -> str:
    """Return a hash of the content of all rows, in order."""
    digest = hashlib.sha256()
    for rows in splits:
        for content in contents(rows):
            digest.update(content)
            digest.update(b"\n")
        digest.update(b"\0")
    return digest.hexdigest()
