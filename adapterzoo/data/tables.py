"""Read Parquet and Arrow files, saved datasets and datasets of the hub, with the library ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from adapterzoo.data.text_files import PlacedCells
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.recipe.files import BUILDERS

PARQUET_ROWS = 256  # number of rows that are read together
BUFFER_BYTES = 2**20


def read_file(path: Path) -> tuple[list[str], Iterator[PlacedCells]]:
    """Return the columns of a Parquet or Arrow file, and its rows, which are read block by block.

    Raises:
        UserError: the file is damaged.
    """
    import datasets

    with _reading(str(path)):
        if BUILDERS[path.suffix] == "parquet":
            return _read_parquet(path)
        table = datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", streaming=True)
        columns = table.column_names or table._resolve_features().column_names
    return list(columns), _rows(table, str(path))


def _read_parquet(path: Path) -> tuple[list[str], Iterator[PlacedCells]]:
    """Return the columns and rows of a Parquet file.

    ``datasets`` would hold a whole group of rows in memory, and most programs write files of a single group.
    """
    import datasets
    from pyarrow import Table, parquet

    # Without buffers, all columns of a group would be read at once.
    file = parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    features = datasets.Features.from_arrow_schema(file.schema_arrow)
    batches = file.iter_batches(PARQUET_ROWS)
    tables = (datasets.Dataset(datasets.table.InMemoryTable(Table.from_batches([batch]))) for batch in batches)
    return list(file.schema_arrow.names), _rows(chain.from_iterable(tables), str(path), features)


def read_folder(path: Path, split: str | None) -> tuple[list[str], Iterator[PlacedCells]]:
    """Return the columns and rows of a folder that ``save_to_disk`` wrote.

    Raises:
        UserError: the folder is damaged, lacks the split, or has several splits and none was named.
    """
    import datasets

    with _reading(str(path)):
        loaded = datasets.load_from_disk(str(path))
    table = _one_split(loaded, str(path), split)
    return list(table.column_names), _rows(table, _name(str(path), split))


def read_hub(
    name: str, config: str | None, revision: str | None, split: str | None, streaming: bool
) -> tuple[list[str], Iterator[PlacedCells]]:
    """Return the columns and rows of a dataset on the hub.

    Args:
        name: the hub id.
        config: name of the configuration, if the dataset has several.
        revision: branch, tag or commit; None for the main branch.
        split: name of the split, if the dataset has several.
        streaming: download rows only as they are read, because the first ones are enough.

    Raises:
        UserError: the dataset cannot be loaded, or it has several splits or configurations and none was named.
    """
    from adapterzoo.data import hub

    try:
        table = _one_split(hub.load(name, config, revision, split, streaming), name, split)
        rows = iter(table)
        # Read one row now: for a streamed dataset, only this shows the columns, and whether the user may read it.
        first = next(rows, None)
    except UserError:
        raise
    except Exception as error:
        raise hub.loading_error(name, split, error) from None
    if first is None and not table.column_names:
        raise UserError.at(f"data.source {_name(name, split)}", "has no rows.")
    columns = table.column_names or list(first or ())
    all_rows = rows if first is None else chain([first], rows)
    return list(columns), _rows(all_rows, _name(name, split), table.features)


def _one_split(loaded: Any, name: str, split: str | None) -> Any:
    """Return the split that was named, or the only one."""
    if not isinstance(loaded, dict):  # a single table, which has no splits
        if split is not None and getattr(loaded, "split", None) not in (None, split):
            raise UserError.at("data.split", f"{name} has no split '{split}'.", "It is a single table.")
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split not in loaded:
        what = f"no split '{split}'" if split else f"several splits ({', '.join(loaded)})"
        example = ", ".join(f"{ours}: {theirs}" for ours, theirs in zip(SPLIT_NAMES, loaded, strict=False))
        hint = did_you_mean(split, loaded) if split else f"Choose them, like data.split: {{{example}}}."
        raise UserError.at("data.split", f"{name} has {what}.", hint)
    return loaded[split]


def _name(name: str, split: str | None) -> str:
    return f"{name} [{split}]" if split else name


def _rows(table: Any, name: str, features: Any = None) -> Iterator[PlacedCells]:
    """Yield each row with its place; classes that are stored as numbers are replaced by their names."""
    features = getattr(table, "features", None) if features is None else features
    # The feature of a column of lists holds the feature of their items.
    items = {column: getattr(feature, "feature", feature) for column, feature in (features or {}).items()}
    classes = {column: feature for column, feature in items.items() if hasattr(feature, "int2str")}
    with _reading(name):
        for number, cells in enumerate(table, start=1):
            named = {
                column: feature.int2str(cells[column])
                for column, feature in classes.items()
                if isinstance(cells[column], int | list)
            }
            yield f"{name}, row {number}", {**cells, **named}


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Raise UserError for a damaged file, for which pyarrow, fsspec and datasets each have errors of their own."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError.at(name, f"cannot be read: {reason[0].rstrip('.')}.") from None
