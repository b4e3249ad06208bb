"""Open the source of the rows that a recipe names: files, a saved dataset or a hub id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from adapterzoo.data import json_files, tables, text_files
from adapterzoo.data.text_files import PlacedCells
from adapterzoo.digests import file_identity
from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.formats import Format
from adapterzoo.recipe.files import BUILDERS, DELIMITERS, JSON
from adapterzoo.recipe.schema import DataSection

# Raise the version when a change in the code makes other rows of the same file.
VERSION = 2
MIN_KEPT_BYTES = 2**23  # compressed, this may be more than what is kept in memory
OTHER_SETTINGS = {"source", "split", "max_length", "truncate", "packing", "loss_on", "chat_template"}
"""settings of the recipe's data section that do not change the rows"""


@dataclass(frozen=True)
class RowSource:
    """The columns of a source and its rows, which are read one by one and never held all at once."""

    columns: list[str]
    rows: Iterator[PlacedCells]


def open_source(names: Sequence[str], data: DataSection, split: str | None = None) -> RowSource:
    """Return the rows of one or several files, of a saved dataset or of a hub id.

    Args:
        names: the source, as :func:`adapterzoo.recipe.files.find_source` returns it.
        data: the recipe's data section.
        split: name of a split of a saved dataset or a hub id.

    Raises:
        UserError: a file cannot be read, or the files have different columns; also raised while rows are read.
    """
    opened = [_open(name, data, split) for name in names]
    columns = [[column for column in source.columns if column not in data.drop_columns] for source in opened]
    problems = []
    for name, own in zip(names[1:], columns[1:], strict=True):
        if missing := [column for column in columns[0] if column not in own]:
            what = f"lacks the column '{missing[0]}' that {names[0]} has."
            problems.append(Problem(name, what, did_you_mean(missing[0], own)))
        elif more := [column for column in own if column not in columns[0]]:
            what = f"has a column '{more[0]}' that {names[0]} lacks."
            problems.append(Problem(name, what, f"To ignore it, set data.drop_columns: [{more[0]}]."))
    if problems:
        raise UserError(*problems)
    union = list(dict.fromkeys(column for source in opened for column in source.columns))
    return RowSource(union, (row for source in opened for row in source.rows))


def source_key(data: DataSection, names: Sequence[str], split: str | None, formats: Mapping[str, Format]) -> str | None:
    """Return a hash of what the rows of a source depend on, by which they are found again.

    It is None for few rows, which are read again, and for sources that may change without a sign: those of a hub, and
    files that have just been written.
    """
    if not all(Path(name).exists() for name in names):
        return None
    files = [path for name in names for path in sorted({Path(name), *Path(name).rglob("*")}) if path.is_file()]
    if sum(path.stat().st_size for path in files) < MIN_KEPT_BYTES:
        return None
    identities = [file_identity(path) for path in files]
    content = {
        "versions": [VERSION, metadata.version("adapterzoo")],
        "names": [names, split],
        "files": [identity for identity, _ in identities],
        "settings": data.model_dump(mode="json", exclude=OTHER_SETTINGS),
        "group": data.split.group_by,
        "formats": {name: repr(form) for name, form in formats.items()},
    }
    settled = all(settled for _, settled in identities)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32] if settled else None


def _open(name: str, data: DataSection, split: str | None) -> RowSource:
    path = Path(name)
    if not path.exists():
        streaming = data.limit is not None and data.shuffle is None
        return RowSource(*tables.read_hub(name, data.config, data.revision, split, streaming))
    if path.is_dir():
        return RowSource(*tables.read_folder(path, split))
    if path.suffix in BUILDERS:
        return RowSource(*tables.read_file(path))
    if path.suffix in JSON:
        return RowSource(*json_files.read_json(path))
    return RowSource(*text_files.read_csv(path, data.delimiter or DELIMITERS[path.suffix]))
