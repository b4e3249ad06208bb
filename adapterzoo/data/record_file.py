"""Keep records in an Arrow file that is mapped into memory, so that any can be read, and the file never is whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from adapterzoo.errors import UserError
from adapterzoo.files import CACHE_VARIABLE, new_cache_file

if TYPE_CHECKING:
    import numpy
    import pyarrow

BATCH_BYTES = 2**23  # so many bytes of records are written together
TOUCH_SECONDS = 600  # the time of a file that is read is set to the present once in so many seconds
NOTES, MORE = b"notes", b"more"


class RecordWriter:
    """Writes records one after the other; at most BATCH_BYTES of them are in memory."""

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        """Begin a file.

        Raises:
            UserError: it cannot be written.
        """
        import pyarrow

        self.path, self.count = path, 0
        self._schema, self._records, self._bytes = schema, list[Sequence[Any]](), 0
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise _no_room(path, error) from None
        self._writer = pyarrow.ipc.new_file(self._file, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; without :meth:`close` before, it is not complete."""
        with suppress(OSError):  # on a full disk, what is left to write fails once more
            self._file.close()

    def add(self, record: Sequence[Any], size: int) -> None:
        """Add a record.

        Args:
            record: a value for each column.
            size: about how many bytes it has.

        Raises:
            UserError: the disk is full.
        """
        self._records.append(record)
        self.count += 1
        self._bytes += size
        if self._bytes >= BATCH_BYTES:
            self.flush()

    def close(self, notes: Mapping[str, Any], more: bytes = b"") -> None:
        """Complete the file.

        Args:
            notes: is kept with the records; can be written as JSON.
            more: other bytes that are kept with them.

        Raises:
            UserError: the disk is full.
        """
        self.flush({NOTES: json.dumps(notes, ensure_ascii=True).encode(), MORE: more})
        try:
            self._writer.close()
            self._file.close()
        except OSError as error:
            raise _no_room(self.path, error) from None

    def flush(self, metadata: Mapping[bytes, bytes] | None = None) -> None:
        """Write the records that are in memory; the next record begins a batch.

        Args:
            metadata: is written with them.

        Raises:
            UserError: the disk is full.
        """
        import pyarrow

        columns = list(zip(*self._records, strict=True)) or [()] * len(self._schema)
        arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        batch = pyarrow.record_batch(arrays, schema=self._schema)
        try:
            self._writer.write_batch(batch, custom_metadata=metadata)
        except OSError as error:
            raise _no_room(self.path, error) from None
        self._records.clear()
        self._bytes = 0


class RecordFile:
    """The records of a file that a :class:`RecordWriter` wrote. Pickled, it is only the path of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next_touch = 0.0

    def __reduce__(self) -> tuple[type[RecordFile], tuple[Path]]:
        return type(self), (self.path,)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _reader(self) -> Any:
        import pyarrow

        try:
            reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(self.path)))
            self._touch()
            return reader
        except (OSError, pyarrow.ArrowException) as error:
            what = f"the rows of this run, which are too many for the memory, cannot be read: {error}."
            raise UserError.at(
                str(self.path), what, "Run the command again, on the machine that has the file."
            ) from None

    @cached_property
    def batches(self) -> list[pyarrow.RecordBatch]:
        """The records in groups; the groups are in memory only where they are used."""
        return [self._reader.get_batch(index) for index in range(self._reader.num_record_batches)]

    @cached_property
    def notes(self) -> Any:
        """The notes that :meth:`RecordWriter.close` was given."""
        return json.loads(self._metadata[NOTES])

    @property
    def more(self) -> bytes:
        """The other bytes that :meth:`RecordWriter.close` was given."""
        return bytes(self._metadata[MORE])

    @property
    def _metadata(self) -> Any:
        return self._reader.get_batch_with_custom_metadata(self._reader.num_record_batches - 1)[1]

    @cached_property
    def _ends(self) -> numpy.ndarray:
        """For each batch, the number of records up to its end."""
        import numpy

        return numpy.cumsum([batch.num_rows for batch in self.batches])

    def place(self, number: int) -> tuple[pyarrow.RecordBatch, int]:
        """Return the batch that has a record, and the record's index in it."""
        self._touch()
        index = int(self._ends.searchsorted(number, side="right"))
        batch = self.batches[index]
        return batch, number - int(self._ends[index]) + batch.num_rows

    def _touch(self) -> None:
        """Give the file the present time now and then: caches remove the files that were not used for long.

        A process of a run that takes hours may open it late.
        """
        now = time.monotonic()
        if now >= self._next_touch:
            self._next_touch = now + TOUCH_SECONDS
            with suppress(OSError):
                os.utime(self.path)

    def record(self, number: int) -> Iterator[Any]:
        """Yield the values of a record."""
        batch, index = self.place(number)
        for column in batch.columns:
            yield column[index].as_py()


@contextmanager
def new_record_file(folder: Path) -> Iterator[Path]:
    """Give an empty file in a folder of the cache, to be written and then renamed; see :func:`new_cache_file`.

    Raises:
        UserError: the folder cannot be written.
    """
    with ExitStack() as temporary:
        try:
            new = temporary.enter_context(new_cache_file(folder))
        except OSError as error:
            what = f"cannot be written, and the rows are too many for the memory: {error.strerror or error}."
            hint = f"Set {CACHE_VARIABLE} to another folder, or set data.limit."
            raise UserError.at(str(folder), what, hint) from None
        yield new


def _no_room(path: Path, error: OSError) -> UserError:
    what = f"the rows, which are too many for the memory, cannot be written: {error.strerror or error}."
    hint = f"Make room on this disk, set {CACHE_VARIABLE} to a folder on a larger one, or set data.limit."
    return UserError.at(str(path.parent), what, hint)
