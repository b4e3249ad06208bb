"""Examples whose tokens are in a file on disk, because they are too many for the memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from adapterzoo.data.record_file import RecordFile, RecordWriter
from adapterzoo.data_row import DataRow
from adapterzoo.tokens.batches import Tokens
from adapterzoo.tokens.encoded import Example

if TYPE_CHECKING:
    import numpy
    import pyarrow

T = TypeVar("T")
TOKEN_BYTES = 4


class Stored(Sequence[T]):
    """The examples of a split in a file. Each is made anew whenever it is asked for."""

    def __init__(self, file: RecordFile, first: int, count: int, rows: Sequence[DataRow]) -> None:
        """Take examples of a file.

        Args:
            file: the file; its first column, ``row``, is the position of an example's row in the split.
            first: number of its first record that belongs to the split.
            count: number of records.
            rows: the rows of the split.
        """
        self._examples = file, first, count, rows

    def __len__(self) -> int:
        return self._examples[2]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        numbers = range(len(self))[index]
        return self._example(numbers) if isinstance(numbers, int) else [self._example(number) for number in numbers]

    def __iter__(self) -> Iterator[T]:
        return map(self._example, range(len(self)))

    def __setitem__(self, index: slice, examples: Self) -> None:
        """Become other examples, as a list does by ``examples[:] = others``."""
        self._examples = examples._examples

    def clear(self) -> None:
        """Forget the examples, as a list does; the file keeps them."""
        file, first, _, _ = self._examples
        self._examples = RecordFile(file.path), first, 0, []

    def _example(self, index: int) -> T:
        file, first, _, rows = self._examples
        batch, place = file.place(first + index)
        number, *parts = (column[place] for column in batch.columns)
        return self._made(rows[number.as_py()], parts)

    @abstractmethod
    def _made(self, row: DataRow, parts: Sequence[Any]) -> T:
        """Return an example from its row and its values in the other columns."""

    @abstractmethod
    def learned(self) -> int:
        """Return the number of tokens in the loss, in all examples."""

    def column(self, name: str) -> numpy.ndarray:
        """Return a number of each example: a column; of a column of lists, their lengths."""
        import numpy
        from pyarrow import compute, types

        parts = [
            (compute.list_value_length(column) if types.is_list(column.type) else column).to_numpy()
            for column in self._columns(name)
        ]
        return numpy.concatenate([numpy.zeros(0, numpy.int64), *parts])

    def _columns(self, name: str) -> Iterator[pyarrow.Array]:
        """Yield a column of each batch; a batch has examples of one split only."""
        file, first, count, _ = self._examples
        start = 0
        for batch in file.batches if count else ():
            if first <= start < first + count and batch.num_rows:
                yield batch.column(name)
            start += batch.num_rows


class StoredExamples(Stored[Example]):
    """The examples of a causal language model in a file of tokens, which :class:`ExampleWriter` wrote."""

    def _made(self, row: DataRow, parts: Sequence[Any]) -> Example:
        prompt, completion, learned = (part.values.to_numpy(zero_copy_only=False).tolist() for part in parts)
        return Example(row, prompt, completion, learned)

    @property
    def sizes(self) -> numpy.ndarray:
        """Number of tokens of each example."""
        return self.column("learned")

    longest = sizes

    def lengths(self, name: str) -> numpy.ndarray:
        """Return the number of tokens of each example's ``prompt`` or ``completion``."""
        return self.column(name)

    def learned(self) -> int:
        """Return the number of tokens in the loss, in all examples."""
        return sum(column.flatten().true_count for column in self._columns("learned"))

    def ends(self) -> set[int]:
        """Return the last tokens of the answers."""
        found: set[int] = set()
        for column in self._columns("completion"):
            found.update(column.values.take(column.offsets[1:].cast("int64").to_numpy() - 1).unique().to_pylist())
        return found


def row_numbers(examples: Sequence[Example], rows: Sequence[DataRow]) -> numpy.ndarray:
    """Return the position of each example's row in a split.

    Args:
        examples: the examples of a split.
        rows: its rows; examples in memory have these very objects.
    """
    import numpy

    if isinstance(examples, Stored):
        return examples.column("row")
    numbers = {id(row): number for number, row in enumerate(rows)}
    return numpy.array([numbers[id(example.row)] for example in examples], numpy.int64)


class StoredPacks(Sequence[list[Tokens]]):
    """Packs of examples that are in a file."""

    def __init__(self, examples: StoredExamples, packs: Sequence[Sequence[int]]) -> None:
        """Take examples in packs.

        Args:
            examples: the examples.
            packs: the positions of the examples in each pack.
        """
        self.examples, self.packs = examples, packs

    def __len__(self) -> int:
        return len(self.packs)

    @overload
    def __getitem__(self, index: int) -> list[Tokens]: ...
    @overload
    def __getitem__(self, index: slice) -> StoredPacks: ...
    def __getitem__(self, index: int | slice) -> list[Tokens] | StoredPacks:
        if isinstance(index, slice):
            return StoredPacks(self.examples, self.packs[index])
        return [self.examples[position].tokens for position in self.packs[index]]


class Made(Sequence[T]):
    """Values that are made anew whenever they are asked for."""

    def __init__(self, positions: range, make: Callable[[int], T]) -> None:
        """Take values.

        Args:
            positions: what ``make`` is called with for each value.
            make: makes a value.
        """
        self.positions, self.make = positions, make

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[T]:
        # Sequence would take an IndexError in ``make`` for the end.
        return map(self.make, self.positions)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Made[T]: ...
    def __getitem__(self, index: int | slice) -> T | Made[T]:
        found = self.positions[index]
        return self.make(found) if isinstance(found, int) else Made(found, self.make)


def of_each(examples: Sequence[Example], make: Callable[[int], T]) -> Sequence[T]:
    """Return what a function makes of the position of each example; they are not in memory if the examples are not."""
    positions = range(len(examples))
    return Made(positions, make) if isinstance(examples, StoredExamples) else [*map(make, positions)]


class ExampleWriter:
    """Writes the examples of one split after the other into a file."""

    def __init__(self, writer: RecordWriter) -> None:
        self.counts: dict[str, int] = {}
        """split -> number of its examples"""
        self._writer = writer

    def add(self, split: str, number: int, example: Example) -> None:
        """Add an example.

        Args:
            split: its split.
            number: position of its row in the split.
            example: the example.

        Raises:
            UserError: the disk is full.
        """
        if split not in self.counts:
            self.counts[split] = 0
            self._writer.flush()
        self.counts[split] += 1
        record = (number, example.prompt, example.completion, example.learned)
        self._writer.add(record, TOKEN_BYTES * example.size)


def schema() -> pyarrow.Schema:
    """Return the columns of a file of examples."""
    import pyarrow

    ids = pyarrow.list_(pyarrow.int32())
    kinds = {"row": pyarrow.int64(), "prompt": ids, "completion": ids, "learned": pyarrow.list_(pyarrow.bool_())}
    return pyarrow.schema(kinds)
