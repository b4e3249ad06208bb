"""Opens what a recipe names as the source of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapterzoo.data import tables, text_files
from adapterzoo.data.text_files import Found
from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.recipe.files import BUILDERS, DELIMITERS, JSON
from adapterzoo.recipe.schema import DataSection


@dataclass(frozen=True)
class Source:
    """Rows to be taken one after the other, never all at once."""

    columns: list[str]
    rows: Iterator[Found]


def open_source(names: Sequence[str], data: DataSection, split: str | None = None) -> Source:
    """The rows of one or several files, of a folder or of a hub id.

    Args:
        names: as :func:`adapterzoo.recipe.files.find_source` gave them.
        split: of a saved dataset or a hub id.

    Raises:
        UserError: one cannot be read, or the files do not have the same columns; also while rows are taken.
    """
    opened = [_open(name, data, split) for name in names]
    columns = [[column for column in source.columns if column not in data.drop_columns] for source in opened]
    problems = []
    for name, own in zip(names[1:], columns[1:], strict=True):
        if missing := [column for column in columns[0] if column not in own]:
            what = f"has no column '{missing[0]}', as {names[0]} has."
            problems.append(Problem(name, what, did_you_mean(missing[0], own)))
        elif more := [column for column in own if column not in columns[0]]:
            what = f"has a column '{more[0]}', which {names[0]} has not."
            problems.append(Problem(name, what, f"data.drop_columns: [{more[0]}] leaves it out."))
    if problems:
        raise UserError(*problems)
    union = list(dict.fromkeys(column for source in opened for column in source.columns))
    return Source(union, (found for source in opened for found in source.rows))


def _open(name: str, data: DataSection, split: str | None) -> Source:
    path = Path(name)
    if not path.exists():
        streaming = data.limit is not None and data.shuffle is None
        return Source(*tables.read_hub(name, data.config, data.revision, split, streaming))
    if path.is_dir():
        return Source(*tables.read_folder(path, split))
    if path.suffix in BUILDERS:
        return Source(*tables.read_file(path))
    if path.suffix in JSON:
        return Source(*text_files.read_json(path))
    return Source(*text_files.read_csv(path, data.delimiter or DELIMITERS[path.suffix]))
