"""Hold rows in memory while they are few, and on disk when they are many."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self, overload

from adapterzoo.data.record_file import RecordFile, RecordWriter, new_record_file
from adapterzoo.data.row_content import (
    DIGEST_BYTES,
    NUMPY_DIGEST,
    content,
    digest,
    digests,
    row_of,
    text_bytes,
    text_digest,
)
from adapterzoo.data_row import DataRow
from adapterzoo.digests import name_by_digest, undamaged
from adapterzoo.files import cache_folder
from adapterzoo.formats.cell_text import size_of

if TYPE_CHECKING:
    import numpy
    import pyarrow

MAX_BYTES_IN_MEMORY = 2**24
"""rows with more text than this are kept on disk, because their tokens take up to fifty times as much memory"""
MAX_FILES = 3  # older files of rows are removed, unless they were used in the last RECENT_SECONDS
RECENT_SECONDS = 3600
SORTED_ROWS = 10_000  # so many rows are sorted in memory, and then merged from disk
ROW_BYTES = 500  # what a row takes beside its text


class StoredRows(Sequence[DataRow]):
    """Rows in a file, in any order. Each is made anew whenever it is asked for."""

    def __init__(self, file: RecordFile, order: numpy.ndarray | None = None) -> None:
        """Take rows of a file.

        Args:
            file: the file.
            order: the numbers of the records; None for all of them.
        """
        self.file, self.order = file, order

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), (self.file, self.order)

    def __len__(self) -> int:
        return len(self.file) if self.order is None else len(self.order)

    @overload
    def __getitem__(self, index: int) -> DataRow: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...
    def __getitem__(self, index: int | slice) -> DataRow | StoredRows:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self._row(self._numbers()[index])

    def __iter__(self) -> Iterator[DataRow]:
        return map(self._row, self._numbers())

    def _row(self, number: int) -> DataRow:
        batch, index = self.file.place(number)
        content, place, group = (batch.column(column)[index].as_py() for column in ("content", "place", "group"))
        return row_of(content, place, group)

    def _numbers(self) -> Any:
        return range(len(self.file)) if self.order is None else self.order

    def select(self, positions: Iterable[int]) -> StoredRows:
        """Return the rows at some positions, in the order of these."""
        import numpy

        chosen = numpy.fromiter(positions, dtype=numpy.int64)
        return StoredRows(self.file, chosen if self.order is None else self.order[chosen])

    def contents(self) -> Iterator[bytes]:
        """Yield the content of each row; see :func:`content`."""
        for number in self._numbers():
            batch, index = self.file.place(number)
            yield batch.column(0)[index].as_py()

    @property
    def text_bytes(self) -> int:
        """About how many bytes of text the rows have."""
        every = sum(batch.column("content").nbytes for batch in self.file.batches)
        return int(every * len(self) // max(len(self.file), 1))

    def column(self, name: str) -> numpy.ndarray:
        """Return a column of digests."""
        import numpy

        columns = (batch.column(name) for batch in self.file.batches if batch.num_rows)
        parts = [numpy.frombuffer(column.buffers()[1], NUMPY_DIGEST, len(column)) for column in columns]
        values = numpy.concatenate(parts)
        return values if self.order is None else values[self.order]


class ChangedRows(StoredRows):
    """Rows in a file that are changed when they are asked for."""

    def __init__(self, rows: StoredRows, change: Callable[[DataRow], DataRow]) -> None:
        """Take rows, and what changes each of them."""
        super().__init__(rows.file, rows.order)
        self._rows, self._change = rows, change

    def _row(self, number: int) -> DataRow:
        return self._change(self._rows._row(number))

    def select(self, positions: Iterable[int]) -> ChangedRows:
        """Return the rows at some positions, in the order of these."""
        return ChangedRows(self._rows.select(positions), self._change)


def changed(rows: Sequence[DataRow], change: Callable[[DataRow], DataRow]) -> Sequence[DataRow]:
    """Return changed rows; they are not in memory if the rows are not."""
    return ChangedRows(rows, change) if isinstance(rows, StoredRows) else [change(row) for row in rows]


class RowCollector:
    """Collects rows in memory, or in a file as soon as there are many; the file is used again by later runs."""

    def __init__(self) -> None:
        self._rows: list[DataRow] = []
        self._bytes = 0
        self._writer: RecordWriter | None = None
        self._temporary = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._temporary.close()

    def __len__(self) -> int:
        return self._writer.count if self._writer else len(self._rows)

    def add(self, row: DataRow) -> None:
        """Add a row.

        Raises:
            UserError: there are many rows, and the cache folder cannot be written.
        """
        if self._writer is not None:
            self._writer.add(*_record(row))
            return
        self._rows.append(row)
        self._bytes += sum(len(turn.content) for turn in row.turns) + size_of(row.more) + ROW_BYTES
        if self._bytes > MAX_BYTES_IN_MEMORY:
            new = self._temporary.enter_context(new_record_file(cache_folder() / "rows"))
            self._writer = self._temporary.enter_context(RecordWriter(new, _schema()))
            for kept in self._rows:
                self._writer.add(*_record(kept))
            self._rows.clear()

    def rows(self, order: numpy.ndarray | None, notes: dict[str, Any], key: str | None = None) -> Sequence[DataRow]:
        """Return the rows.

        Args:
            order: positions of the rows to return; None for all, in the order in which they were added.
            notes: what :func:`known_rows` returns with them in later runs.
            key: what the rows depend on; None if later runs cannot know whether it is the same.
        """
        if self._writer is None:
            return self._rows if order is None else [self._rows[position] for position in order]
        self._writer.close({**notes, "ordered": order is not None}, b"" if order is None else order.tobytes())
        path = cache_folder() / "rows" / f"{key or os.urandom(16).hex()}.arrow"
        path = name_by_digest(self._writer.path, path, MAX_FILES, RECENT_SECONDS)
        return StoredRows(RecordFile(path), order)


def known_rows(key: str) -> tuple[StoredRows, dict[str, Any]] | None:
    """Return the rows that an earlier run has kept in a file, and their notes; None if there is no such file."""
    path = undamaged(cache_folder() / "rows" / f"{key}.arrow")
    if path is None:
        return None
    import numpy

    file = RecordFile(path)
    order = numpy.frombuffer(file.more, numpy.int64) if file.notes["ordered"] else None
    return StoredRows(file, order), file.notes


def select(rows: Sequence[DataRow], positions: Iterable[int]) -> Sequence[DataRow]:
    """Return the rows at some positions, in the order of these."""
    return rows.select(positions) if isinstance(rows, StoredRows) else [rows[position] for position in positions]


def sorted_by_content(rows: Sequence[DataRow], positions: numpy.ndarray) -> list[int]:
    """Return positions in the order of the rows' content. Only some of the rows are in memory at the same time."""

    def key(position: int) -> tuple[Any, ...]:
        row = rows[position]
        return row.turns, repr(row.more)

    parts = (sorted(positions[start : start + SORTED_ROWS], key=key) for start in range(0, len(positions), SORTED_ROWS))
    return list(heapq.merge(*parts, key=key))


def distinct(rows: Sequence[DataRow]) -> int:
    """Return the number of different rows."""
    if not isinstance(rows, StoredRows):
        return len(set(rows))
    import numpy

    return len(numpy.unique(rows.column("digest")))


def contents(rows: Sequence[DataRow]) -> Iterator[bytes]:
    """Yield the content of each row."""
    return rows.contents() if isinstance(rows, StoredRows) else map(content, rows)


def content_digests(rows: Sequence[DataRow]) -> numpy.ndarray:
    """Return a digest of each row; equal rows have the same."""
    return rows.column("digest") if isinstance(rows, StoredRows) else digests(map(content, rows), len(rows))


def prompt_digests(rows: Sequence[DataRow]) -> numpy.ndarray:
    """Return a digest of each row's prompt; as :func:`text_digest` gives it."""
    if isinstance(rows, StoredRows):
        return rows.column("prompt")
    return digests((text_bytes(row.prompt) for row in rows), len(rows))


def _schema() -> pyarrow.Schema:
    import pyarrow

    digest_type = pyarrow.binary(DIGEST_BYTES)
    return pyarrow.schema(
        {
            "content": pyarrow.binary(),
            "place": pyarrow.string(),
            "group": pyarrow.binary(),
            "digest": digest_type,
            "prompt": digest_type,
        }
    )


def _record(row: DataRow) -> tuple[tuple[Any, ...], int]:
    """Return the record of a row, and its size in bytes."""
    written = content(row)
    group = None if row.group is None else text_bytes(row.group)
    record = (written, row.place, group, digest(written), text_digest(row.prompt))
    return record, len(written) + len(row.place) + len(group or b"") + 2 * DIGEST_BYTES
