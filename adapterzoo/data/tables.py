"""Parquet, Arrow, saved dataset folders and datasets of a hub, through ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from adapterzoo.data.text_files import Found
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.recipe.files import BUILDERS


def read_file(path: Path) -> tuple[list[str], Iterator[Found]]:
    """The columns and rows of a Parquet or Arrow file, a block at a time.

    Raises:
        UserError: it is damaged, or no such file.
    """
    import datasets

    with _damaged(str(path)):
        table = datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", streaming=True)
        columns = table.column_names or table._resolve_features().column_names
    return list(columns), _rows(table, str(path))


def read_folder(path: Path, split: str | None) -> tuple[list[str], Iterator[Found]]:
    """The columns and rows of what ``save_to_disk`` wrote.

    Raises:
        UserError: it is damaged, has several splits and none was named, or not the one that was.
    """
    import datasets

    with _damaged(str(path)):
        loaded = datasets.load_from_disk(str(path))
    table = _one_split(loaded, str(path), split)
    return list(table.column_names), _rows(table, _name(str(path), split))


def read_hub(
    name: str, config: str | None, revision: str | None, split: str | None, streaming: bool
) -> tuple[list[str], Iterator[Found]]:
    """The columns and rows of a dataset on the hub.

    Args:
        streaming: take rows as they come, without having all downloaded: where only the first ones are wanted.

    Raises:
        UserError: there is none of that name, it is gated, no network, it needs a script, or has several splits
            or configurations and none was named.
    """
    from adapterzoo.data import hub

    try:
        table = _one_split(hub.load(name, config, revision, split, streaming), name, split)
        rows = iter(table)
        first = next(rows, None)  # of a streamed one, only its rows tell the columns, and whether it may be read
    except UserError:
        raise
    except Exception as error:
        raise hub.refused(name, split, error) from None
    if first is None and not table.column_names:
        raise UserError.at(f"data.source {_name(name, split)}", "has no rows.")
    columns = table.column_names or list(first or ())
    read = rows if first is None else chain([first], rows)
    return list(columns), _rows(read, _name(name, split), table.features)


def _one_split(loaded: Any, name: str, split: str | None) -> Any:
    """The split that was named, or the only one."""
    if not isinstance(loaded, dict):  # a single table, which has no splits
        if split is not None and getattr(loaded, "split", None) not in (None, split):
            raise UserError.at("data.split", f"{name} has no split '{split}'.", "It is a single table.")
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split not in loaded:
        wanted = f"no split '{split}'" if split else f"several splits ({', '.join(loaded)})"
        example = ", ".join(
            f"{part}: {one}" for part, one in zip(("train", "validation", "test"), loaded, strict=False)
        )
        hint = did_you_mean(split, loaded) if split else f"Say which is which, like data.split: {{{example}}}."
        raise UserError.at("data.split", f"{name} has {wanted}.", hint)
    return loaded[split]


def _name(name: str, split: str | None) -> str:
    return f"{name} [{split}]" if split else name


def _rows(table: Any, name: str, features: Any = None) -> Iterator[Found]:
    """Each row with its place; a class that is stored as a number has its name."""
    features = getattr(table, "features", None) if features is None else features
    classes = {column: one for column, one in (features or {}).items() if hasattr(one, "int2str")}
    with _damaged(name):
        for number, cells in enumerate(table, start=1):
            named = {
                column: one.int2str(cells[column]) for column, one in classes.items() if isinstance(cells[column], int)
            }
            yield f"{name}, row {number}", {**cells, **named}


@contextmanager
def _damaged(name: str) -> Iterator[None]:
    """pyarrow, fsspec and datasets each have errors of their own for a file that is not what its name says."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError.at(name, f"cannot be read: {reason[0].rstrip('.')}.") from None
