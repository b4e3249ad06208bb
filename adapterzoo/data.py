"""The user's rows: read, checked, and split into train, validation and test."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.recipe import DataSection, Split

COLUMNS_HINT = "Say which is which under data.columns."


@dataclass(frozen=True)
class Row:
    """One example as the user wrote it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Splits:
    """The rows of each part, and the hash of what they hold."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    fingerprint: str


def check_columns(data: DataSection) -> list[str]:
    """The shape of the file: its columns, and that no row has more cells than they. Returns the columns' names.

    Raises:
        UserError: the file is empty or not UTF-8, lacks a column that the recipe names, or has a row too long.
    """
    path = Path(data.source)
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            widths = [(reader.line_num, len(row)) for row in reader if row]
    except UnicodeDecodeError as error:
        raise UserError.at(str(path), f"is not UTF-8: {error}.", "Save it as UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise UserError.at(f"{path}:{reader.line_num}", f"cannot be read as CSV: {error}.") from None
    if not header:
        raise UserError.at(str(path), "does not begin with a line of column names: it is empty, or its first line is.")
    columns = (data.prompt_column, data.completion_column)
    other = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
    hint = f"Its columns seem to be separated by {other!r}, not by commas." if other else COLUMNS_HINT
    problems = [
        Problem(f"{path}:1", f"there is no column '{column}'.", f"{did_you_mean(column, header)} {hint}")
        for column in columns
        if column not in header
    ]
    twice = sorted({column for column in header if header.count(column) > 1})
    problems += [Problem(f"{path}:1", f"there are two columns '{column}'.", "Rename one of them.") for column in twice]
    if columns[0] == columns[1]:
        problems.append(Problem("data.columns", f"prompt and answer are both the column '{columns[0]}'."))
    long = [(line, width) for line, width in widths if width > len(header)]
    if long and not problems:
        line, width = long[0]
        what = f"this row has {width} cells, the line of column names {len(header)} (so in {len(long)} rows)."
        problems.append(Problem(f"{path}:{line}", what, "Put text with a comma in it in quotes."))
    if not widths and not problems:
        problems.append(Problem(str(path), "has column names but no rows."))
    if problems:
        raise UserError(*problems)
    return header


def read_rows(data: DataSection, say: Callable[[str], None] = lambda message: None) -> list[Row]:
    """All usable rows of the source; rows with an empty prompt or answer are dropped, and said.

    Raises:
        UserError: the file cannot be parsed, or no row is usable.
    """
    header = check_columns(data)
    import datasets

    datasets.disable_progress_bars()
    path = Path(data.source)
    names = (data.prompt_column, data.completion_column)
    try:
        # All as text: a type guessed from the column would turn 007 into 7 and the word "null" into nothing.
        table = datasets.Dataset.from_csv(
            str(path),
            # Of all columns: told to read only some, it would not notice a row with too many cells.
            features=datasets.Features({name: datasets.Value("string") for name in header}),
            keep_default_na=False,
            encoding="utf-8-sig",
            keep_in_memory=True,
        )
    except Exception as error:  # pandas, pyarrow and datasets each have errors of their own for a broken file
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError.at(str(path), f"cannot be read as CSV: {reason}.") from None
    found = [
        Row(str(prompt or "").strip(), str(answer or "").strip())
        for prompt, answer in zip(*(table[n] for n in names), strict=True)
    ]
    rows = [row for row in found if row.prompt and row.completion]
    if not rows:
        raise UserError.at(str(path), f"all {len(found)} rows have an empty '{names[0]}' or '{names[1]}'.")
    if dropped := len(found) - len(rows):
        say(f"data: {dropped} of {len(found)} rows dropped: their '{names[0]}' or '{names[1]}' is empty")
    if repeated := len(rows) - len(set(rows)):
        say(f"data: {repeated} of {len(rows)} rows repeat another one")
    return rows


def split_rows(rows: list[Row], split: Split, source: str) -> Splits:
    """Share out the rows by a hash of their content: the same on any machine, in whatever order they come.

    Rows with the same prompt go to the same part, so that no test question is seen in training.

    Raises:
        UserError: a part that has a share ends up without a row.
    """
    groups: dict[bytes, list[Row]] = {}
    for row in rows:
        key = hashlib.sha256(f"{split.seed}\0{row.prompt}".encode()).digest()
        groups.setdefault(key, []).append(row)
    ordered = [sorted(groups[key], key=lambda row: row.completion) for key in sorted(groups)]
    ends = [round(len(ordered) * share) for share in (split.test, split.test + split.validation)]
    ends.append(ends[1] + max(1, round(len(ordered) * split.train)))
    test, validation, train = (
        [row for group in ordered[start:end] for row in group] for start, end in zip([0, *ends], ends, strict=False)
    )
    for name, part, share in (
        ("train", train, split.train),
        ("validation", validation, split.validation),
        ("test", test, split.test),
    ):
        if share and not part:
            raise UserError.at(
                source,
                f"{len(ordered)} different prompts are too few: split.{name} = {share} leaves none for {name}.",
                "Give more rows, or other shares.",
            )
    whole = hashlib.sha256()
    for part in (train, validation, test):
        for row in part:
            whole.update(f"{row.prompt}\0{row.completion}\n".encode())
        whole.update(b"\0")
    return Splits(train, validation, test, whole.hexdigest())
